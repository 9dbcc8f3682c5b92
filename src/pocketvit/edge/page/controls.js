// The page: ways to give an image, and what is shown of the answer.

const $ = (id) => document.getElementById(id);
const { classes, samples } = about;
const FIRST = classes.length > 10 ? 5 : classes.length; // classes that are shown unasked
const PEN = 0.12; // width of a stroke, as a share of the drawing's shorter side

const percent = (share) => (share < 0.0005 ? "< 0.1 %" : share > 0.9995 && share < 1 ? "> 99.9 %" : `${(100 * share).toFixed(1)} %`);
const order = (values) => Array.from(values.keys()).sort((a, b) => values[b] - values[a]);
const isOpen = () => $("all").getAttribute("aria-expanded") === "true";

const say = (text) => ($("message").textContent = text);

// What is shown of the answer.

let asked = 0, answer = null;

/** Classify pixels and show all of it, unless something newer was given meanwhile. */
async function show(pixels, given, { timed = true } = {}) {
  const mine = ++asked;
  paintSeen(pixels, given);
  const found = await classify(pixels);
  if (mine !== asked) return;
  answer = found;
  const best = order(found.probabilities)[0];
  $("top").textContent = classes[best];
  $("sure").textContent = percent(found.probabilities[best]);
  rank();
  if (about.looked) paintLooked(pixels, found.looked, best);
  if (!timed) return; // nor spoken, while a drawing grows
  $("spoken").textContent = `${classes[best]}, ${percent(found.probabilities[best])}`;
  time(pixels, () => mine !== asked);
}

async function time(pixels, stopped) {
  const { milliseconds, runs } = await latency(pixels, 60, stopped);
  if (stopped()) return;
  const text = milliseconds < 10 ? milliseconds.toFixed(2) : milliseconds.toFixed(0);
  $("time").replaceChildren(
    Object.assign(document.createElement("b"), { textContent: `${text} ms` }),
    ` an image on this device (one thread, ${runs} runs).`,
  );
}

function rank() {
  const { probabilities } = answer, rows = $("ranks").children;
  const best = order(probabilities).slice(0, isOpen() ? classes.length : FIRST);
  while (rows.length < best.length) $("ranks").append($("row").content.cloneNode(true));
  while (rows.length > best.length) rows[best.length].remove();
  best.forEach((number, place) => {
    const [name, meter, share] = rows[place].children;
    name.textContent = name.title = classes[number];
    meter.firstChild.style.width = `${100 * probabilities[number]}%`;
    share.textContent = percent(probabilities[number]);
  });
  $("all").hidden = classes.length <= FIRST;
}

const at = (pixels, place) => Array.from({ length: 3 }, (_, c) => pixels[(c % channels) * height * width + place]);

function paint(canvas, colour) {
  const image = new ImageData(width, height);
  for (let place = 0; place < height * width; place++) image.data.set([...colour(place), 255], 4 * place);
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function paintSeen(pixels, given) {
  paint($("seen"), (place) => at(pixels, place));
  $("seen").setAttribute("aria-label", `The image as the model sees it: ${given}`);
  $("given").textContent = given;
}

/** The image in grey, and over it in orange how much was read of each patch, or how much each adds to the class. */
function paintLooked(pixels, looked, best) {
  const [down, across] = about.grid, attention = about.looked === "attention";
  const values = attention ? looked : looked.filter((_, i) => i % classes.length === best);
  const [least, most] = [attention ? 0 : Math.min(...values), Math.max(...values)];
  paint($("looked"), (place) => {
    const [r, g, b] = at(pixels, place);
    const grey = 26 + 0.42 * (0.299 * r + 0.587 * g + 0.114 * b);
    const row = Math.floor((Math.floor(place / width) * down) / height), column = Math.floor(((place % width) * across) / width);
    const share = (0.9 * (values[row * across + column] - least)) / (most - least || 1);
    return [255, 140, 40].map((tint) => grey + share * (tint - grey));
  });
  const top = order(values)[0];
  const where = `the brightest of ${down * across} patches, in row ${Math.floor(top / across) + 1}, column ${(top % across) + 1}`;
  $("looked-note").textContent = attention
    ? `${percent(most)} on the brightest of ${down * across} patches`
    : `a patch adds ${least.toFixed(3)} to ${most.toFixed(3)} to the logit of ${classes[best]}`;
  $("looked").setAttribute("aria-label", attention ? `${percent(most)} of attention on ${where}` : `Most is added by ${where}`);
}

$("all").onclick = () => {
  $("all").setAttribute("aria-expanded", !isOpen());
  $("all").textContent = isOpen() ? "Fewer" : `All ${classes.length} classes`;
  rank();
};

// Ways to give an image.

const tidy = (except) => {
  if (except !== "draw") setDrawing(false);
  if (except !== "sample") for (const one of document.querySelectorAll("#strip :checked")) one.checked = false;
  say("");
};

async function take(blob, kind) {
  if (!blob) return;
  let image;
  try {
    image = await decoded(blob);
  } catch {
    say(`${blob.name || "That"} is no image that this browser can read. PNG, JPEG and WebP are.`);
    return;
  }
  tidy();
  const size = image.width === width && image.height === height ? "" : `, ${image.width} × ${image.height}, scaled`;
  await show(scaled(image), `${kind}${size}`);
}

for (const [id, kind] of [["file", "Your file"], ["photo", "Your photo"]]) {
  $(id).onchange = ({ target }) => {
    take(target.files[0], kind);
    target.value = ""; // so that the same file can be chosen again
  };
}

document.onpaste = (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) take(file, "Pasted");
  else say("The clipboard holds no image. Copy one first.");
};

if (!navigator.clipboard?.read) $("paste").hidden = true;
$("paste").onclick = async () => {
  try {
    for (const item of await navigator.clipboard.read()) {
      const type = item.types.find((one) => one.startsWith("image/"));
      if (type) return take(await item.getType(type), "Pasted");
    }
    say("The clipboard holds no image. Copy one first.");
  } catch {
    say("This browser does not let the page look. Press Ctrl V, or ⌘ V.");
  }
};

document.ondragover = (event) => {
  event.preventDefault();
  $("drop").hidden = false;
};
document.ondragleave = (event) => {
  if (!event.relatedTarget) $("drop").hidden = true;
};
document.ondrop = (event) => {
  event.preventDefault();
  $("drop").hidden = true;
  if (event.dataTransfer.files.length) take(event.dataTransfer.files[0], "Dropped");
  else say("That is a link, and this page fetches nothing. Save the image, and drop the file.");
};

for (const input of document.querySelectorAll("#strip input")) {
  input.onchange = async () => {
    tidy("sample");
    const picture = input.nextElementSibling;
    await picture.decode();
    await show(scaled(await createImageBitmap(picture)), `A test image, labelled ${samples[input.value].label}`);
  };
}

// Drawing, by pointer or by keys.

const paper = $("paper"), context = paper.getContext("2d", { willReadFrequently: true });
const enlarged = Math.ceil(320 / Math.max(height, width));
[paper.width, paper.height] = [width * enlarged, height * enlarged];
const side = Math.min(paper.width, paper.height);
const dark = about.mean.reduce((a, b) => a + b) / channels < 128;
const hex = (values) => `#${values.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
// On a ground like the images': black or white where they are grey, else their mean colour.
const ground = channels === 1 ? (dark ? "#000000" : "#ffffff") : hex(about.mean);
let colour = dark ? "#ffffff" : "#000000";
const pen = { x: paper.width / 2, y: paper.height / 2, down: false };

function setDrawing(on) {
  if (on === !$("drawing").hidden) return;
  $("drawing").hidden = !on;
  $("tiles").classList.toggle("pencil", on);
  $("draw").setAttribute("aria-pressed", on);
  if (on) {
    wipe();
    paper.focus();
  }
}

function wipe() {
  context.fillStyle = ground;
  context.fillRect(0, 0, paper.width, paper.height);
  shown();
}

function stroke(x, y) {
  Object.assign(context, { lineCap: "round", lineJoin: "round", lineWidth: PEN * side, strokeStyle: colour });
  context.beginPath();
  context.moveTo(pen.x, pen.y);
  context.lineTo(x, y);
  context.stroke();
  shown();
}

let changed = false, last = false, working = false;
/** The drawing, classified as often as the device can; timed once a stroke has ended. */
async function shown(ended = false) {
  [changed, last] = [true, ended];
  if (working) return;
  working = true;
  while (changed) {
    changed = false;
    await new Promise(requestAnimationFrame);
    if (!$("drawing").hidden) await show(scaled(paper), "Your drawing", { timed: last });
  }
  working = false;
}

function place(event) {
  const box = paper.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * paper.width, ((event.clientY - box.top) / box.height) * paper.height];
}

function move(x, y) {
  if (pen.down) stroke(x, y);
  [pen.x, pen.y] = [x, y];
  Object.assign($("pen").style, { left: `${(100 * x) / paper.width}%`, top: `${(100 * y) / paper.height}%` });
}

paper.onpointerdown = (event) => {
  paper.setPointerCapture(event.pointerId);
  $("pen").hidden = true;
  pen.down = false;
  move(...place(event));
  pen.down = true;
  stroke(pen.x, pen.y);
};
paper.onpointermove = (event) => {
  if (!paper.hasPointerCapture(event.pointerId)) return;
  for (const one of event.getCoalescedEvents?.() ?? [event]) move(...place(one));
};
paper.onpointerup = paper.onpointercancel = () => {
  pen.down = false;
  shown(true);
};
paper.onkeydown = (event) => {
  const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
  if (event.key !== " " && !x && !y) return;
  event.preventDefault();
  $("pen").hidden = false;
  if (event.key === " ") pen.down = !pen.down;
  const within = (value, most) => Math.min(most, Math.max(0, value));
  move(within(pen.x + (x * side) / 16, paper.width), within(pen.y + (y * side) / 16, paper.height));
  $("pen").classList.toggle("down", pen.down);
};
paper.onblur = () => {
  $("pen").hidden = true;
  pen.down = false;
};
$("clear").onclick = wipe;
$("draw").onclick = () => {
  if ($("drawing").hidden) {
    tidy("draw");
    setDrawing(true);
  } else setDrawing(false);
};
if ($("colour")) {
  $("colour").value = colour;
  $("colour").oninput = ({ target }) => (colour = target.value);
}

// The rest.

$("licences").ontoggle = async () => {
  if (!$("notices-text").textContent) $("notices-text").textContent = new TextDecoder().decode(await unpacked("notices"));
};

loading.then(
  () => document.documentElement.toggleAttribute("data-ready", true),
  (error) => {
    $("top").textContent = "It does not run here";
    say(`This browser is too old for the page, or the file is damaged (${error.message ?? error}).`);
  },
);
// Something to see from the start.
document.querySelector("#strip input")?.click();
