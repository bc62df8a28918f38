// Sends the photograph to the server whenever it or an option changes, and shows the answer.
const find = (selector) => document.querySelector(selector);
const [form, drop, result, bar, status] =
  ["#form", "#photograph", "#result", "#status progress", "#status span"].map(find);
const withoutPhotograph = result.innerHTML;
const look = {wipe: 0, opacity: 0.5}; // applies to all pictures, and is kept for the next photograph
let photograph = null;
let request = new AbortController();

async function choose(file) {
  if (!file) return;
  form.elements.file.value = ""; // so that the same file can be chosen again
  photograph = null;
  request.abort();
  find("#chosen").textContent = file.name;
  if (file.size > drop.dataset.maxMb * 2 ** 20) {
    return fail(`${file.name} is larger than ${drop.dataset.maxMb} MB, the limit; scale it down.`);
  }
  try {
    const content = await file.arrayBuffer(); // the file may change or vanish while the page is open
    photograph = {name: file.name, content};
  } catch {
    return fail(`${file.name} cannot be read.`);
  }
  segment();
}

async function segment() {
  if (!photograph) return;
  request.abort(); // the latest photograph and options count
  request = new AbortController();
  const {signal} = request;
  const {mode, flip} = form.elements;
  const query = new URLSearchParams({mode: mode.value, flip: flip.checked});
  busy(`Uploading ${photograph.name}`);
  try {
    const answer = await fetch(`segment?${query}`, {method: "POST", body: photograph.content, signal});
    for await (const {html, message, progress, share} of lines(answer)) {
      if (html) return show(html);
      if (message) return fail(message);
      busy(progress, share);
    }
    fail("The server has ended the connection. Choose the photograph again.");
  } catch (error) {
    if (signal.aborted) return;
    console.warn(error);
    fail("The server does not answer. Check that it is still running, then choose the photograph again.");
  }
}

// The objects of a response, which has one in JSON on each line.
async function* lines(answer) {
  let rest = "";
  for await (const text of chunks(answer.body.pipeThrough(new TextDecoderStream()))) {
    const whole = (rest + text).split("\n");
    rest = whole.pop();
    for (const line of whole) yield JSON.parse(line);
  }
  if (rest) yield JSON.parse(rest);
}

async function* chunks(stream) {
  const reader = stream.getReader();
  for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value;
}

function busy(text, share) {
  status.textContent = text;
  bar.hidden = !text;
  result.ariaBusy = Boolean(text);
  if (share === undefined) bar.removeAttribute("value");
  else bar.value = share;
}

function show(html) {
  busy("");
  result.innerHTML = html;
  // The content security policy allows no style attributes.
  for (const {style, dataset} of result.querySelectorAll("[data-colour]")) {
    style.backgroundColor = dataset.colour;
    style.flexGrow = dataset.share ?? "";
  }
  for (const {style, dataset} of result.querySelectorAll("[data-ratio]")) {
    style.setProperty("--ratio", dataset.ratio);
  }
  if (photograph) find("#result .name")?.prepend(`${photograph.name}, `);
  apply();
}

function fail(message) {
  show(withoutPhotograph);
  const paragraph = document.createElement("p");
  paragraph.className = "message";
  paragraph.role = "alert";
  paragraph.textContent = message;
  result.prepend(paragraph);
}

function apply() {
  for (const [name, value] of Object.entries(look)) {
    result.style.setProperty(`--${name}`, value);
    for (const input of result.querySelectorAll(`[name=${name}]`)) input.value = value;
  }
}

form.addEventListener("change", ({target}) => {
  if (target.type === "file") choose(target.files[0]);
  else segment();
});
form.addEventListener("submit", (event) => event.preventDefault());
result.addEventListener("input", ({target}) => {
  look[target.name] = target.value;
  apply();
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
for (const end of ["dragleave", "drop"]) document.addEventListener(end, () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  choose(event.dataTransfer.files[0]);
});
show(withoutPhotograph);
