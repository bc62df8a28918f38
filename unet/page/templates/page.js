// The slider and the opacity apply to all pictures, and are kept for the next photograph.
const state = {wipe: 0, opacity: 0.5};
const apply = () => {
  for (const [name, value] of Object.entries(state)) {
    element.style.setProperty(`--${name}`, value);
    for (const input of element.querySelectorAll(`[name=${name}]`)) input.value = value;
  }
};
element.addEventListener("input", ({target}) => { state[target.name] = target.value; apply(); });
watch("value", apply);
apply();
