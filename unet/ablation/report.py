"""stub while the rest is made"""


def write(*a):
    print(len(a[0]), "finished")
