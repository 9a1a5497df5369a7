// The page: settings in, images and equations out. The engine runs in workers (lane.js).

import { draw as paint, npy } from "./images.js";
import { Lane, layout } from "./lane.js";
import { Mask } from "./mask.js";
import { stepEquations } from "./math.js";

const id = (name) => document.getElementById(name);
const form = id("settings");
const chosen = (name) => form.elements[name].value;
const FILES = [
  "model_index.json",
  "unet/config.json",
  "unet/diffusion_pytorch_model.safetensors",
  "scheduler/scheduler_config.json",
];
/** Which of a chosen folder's files are a model's. */
const OF_A_MODEL =
  /^(model_index\.json|(unet(_ema)?\/)?(config\.json|diffusion_pytorch_model[^/]*\.safetensors)|(scheduler\/)?scheduler_config\.json)$/;
/** The steps that are usual where the model's sampler is another. */
const USUAL = { ddpm: 100, ddim: 50, "dpm++": 15, unipc: 15 };

let module;
let files;
let model;
let source = "";
let drawing = false;
let following = true;
let waiting;
/** Counts runs and models, so that one that was overtaken by another ends. */
let turns = 0;
/** The names of the classes of the images that are shown. */
let names = [];

const own = new Lane(false, changed);
const exchanged = new Lane(true, changed);
const mask = new Mask(id("mask"), id("brush"), () => soon());

function say(text, isError = false) {
  id("status").textContent = text;
  id("status").classList.toggle("error", isError);
}

async function get(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status} ${response.statusText}`);
  return response.arrayBuffer();
}

/** The lanes that the settings ask for. */
function lanes() {
  const which = { own: [own], exchanged: [exchanged], both: [own, exchanged] };
  return which[chosen("attention")];
}

/** The names of the chosen classes, in the model's order. */
function classes() {
  return [...id("classes").querySelectorAll("input:checked")].map((box) => Number(box.value));
}

function describe() {
  const [height, width, channels] = model.image;
  const kinds = {
    favor: `FAVOR+ (m = ${model.features})`,
    softmax: "softmax",
    "favor-hyperbolic": `FAVOR+, hyperbolic (m = ${model.features})`,
    "favor-trig": `FAVOR+, trigonometric (m = ${model.features})`,
    relu: `ReLU features (m = ${model.features})`,
    none: "none",
  };
  const name = kinds[model.attention];
  id("model").textContent =
    `${source}: ${height} × ${width} pixels, ${channels === 1 ? "grey" : `${channels} channels`}, ` +
    `${model.parameters.toLocaleString("en")} parameters, attention ${name}, T = ${model.timesteps}.` +
    (model.note ? ` ${model.note}.` : "");
  id("own_name").textContent = `${name}, as trained`;
  own.title.textContent = `${name}, as trained`;
  if (model.exchanged) {
    id("exchanged_name").textContent = kinds[model.exchanged];
    exchanged.title.textContent = `${kinds[model.exchanged]}, the same weights`;
  }
}

/** Sets the settings to what the model is sampled by where nothing else is said. */
function usual() {
  id("sampler").value = model.sampler;
  id("clip").value = "";
  setSteps(model.steps);
  id("steps").max = Math.min(100, model.timesteps);
  id("steps_number").max = model.timesteps;
  id("attention_set").hidden = !model.exchanged;
  form.elements.attention.value = "own";
  id("classes_set").hidden = model.classes.length === 0;
  id("guidance_row").hidden = !model.guidable;
  id("guidance").value = 1;
  id("count").value = model.classes.length > 0 ? 2 : 4;
  document.querySelector("label[for=count]").textContent = model.classes.length > 0 ? "Images of each" : "Images";
  id("classes").replaceChildren(...model.classes.map((name, at) => {
    const label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", value: at, checked: true });
    label.append(box, ` ${name}`);
    return label;
  }));
  outputs();
}

function setSteps(steps) {
  id("steps").value = steps;
  id("steps_number").value = steps;
}

/** Writes the sliders' numbers beside them and shows what belongs to the choices. */
function outputs() {
  for (const output of form.querySelectorAll("output")) output.value = id(output.htmlFor[0]).value;
  id("eta_row").hidden = chosen("sampler") !== "ddim";
  id("picture").hidden = chosen("mode") !== "inpaint";
}

/** What the settings ask for. */
function request() {
  const picked = classes();
  const count = Number(id("count").value) * (model.classes.length > 0 ? Math.max(1, picked.length) : 1);
  const sampler = chosen("sampler");
  const wishes = {
    sampler,
    steps: Number(id("steps_number").value),
    eta: sampler === "ddim" ? Number(id("eta").value) : null,
    clip: { "": null, keep: true, off: false }[chosen("clip")],
    count,
    seed: Number(id("seed").value),
    classes: picked,
    guidance: model.guidable ? Number(id("guidance").value) : null,
  };
  return chosen("mode") === "sample"
    ? { do: "sample", ...wishes }
    : { do: "inpaint", ...wishes, jump: Number(id("jump").value), times: Number(id("times").value) };
}

/** The command that gives the same images. */
function command({ sampler, steps, eta, clip, count, seed, guidance, jump, times }) {
  const words = [
    chosen("mode") === "sample" ? "performer-ddpm sample" : `performer-ddpm edit inpaint IN.png --mask MASK.png --jump ${jump} --resample ${times}`,
    `-n ${count} --seed ${seed} --sampler ${sampler} --steps ${steps}`,
  ];
  if (eta) words.push(`--eta ${eta}`);
  if (clip !== null) words.push(`--clip ${clip ? "keep" : "off"}`);
  if (classes().length > 0 && classes().length < model.classes.length) words.push(`--class ${classes().join()}`);
  if (guidance !== null && guidance !== 1) words.push(`--guidance ${guidance}`);
  return [...words, "--npy images.npy"].join(" ");
}

/** Runs soon, once for changes that follow each other. */
function soon() {
  clearTimeout(waiting);
  waiting = setTimeout(run, 250);
}

async function run() {
  clearTimeout(waiting);
  if (!model) return;
  const steps = id("steps_number");
  if (!form.reportValidity()) return;
  if (model.classes.length > 0 && classes().length === 0) return say("Choose a class.", true);
  if (chosen("mode") === "inpaint" && !mask.isMarked) return say("Mark what is to be painted anew.", true);
  const turn = ++turns;
  const isWanted = () => turn === turns;
  const asked = request();
  const working = lanes();
  const numbers = asked.do === "inpaint" ? mask.both : undefined;
  for (const lane of [own, exchanged]) {
    if (!working.includes(lane)) await lane.stop();
  }
  if (!isWanted()) return;
  names = classes().map((index) => model.classes[index]);
  id("lanes").replaceChildren(...working.map((lane) => lane.element));
  id("lanes").classList.toggle("two", working.length === 2);
  id("stop").disabled = false;
  id("save").hidden = true;
  following = true;
  say(`Running ${steps.value} steps …`);
  const told = await Promise.all(working.map(async (lane) => {
    if (!lane.model) await lane.load(module, files);
    return lane.run(asked, numbers, isWanted);
  }));
  if (!isWanted() || told.some((last) => last.told === "stopped")) return;
  id("stop").disabled = true;
  const refused = told.find((last) => last.told !== "done");
  if (refused) {
    say(refused.message, true);
    for (const lane of working) await lane.load(module, files);
    return;
  }
  finished(asked, working);
}

function finished(asked, working) {
  const seconds = working.map((lane) => `${lane.seconds.toFixed(2)} s`).join(" and ");
  let text = `Done: ${working[0].frames.at(-1).moment.calls} calls of the network in ${seconds}.`;
  if (working.length === 2) {
    const [a, b] = working.map((lane) => lane.images);
    const mean = a.reduce((total, value, at) => total + (value - b[at]) ** 2, 0) / a.length;
    text += ` The images differ by ${Math.sqrt(mean).toFixed(3)}, root mean square.`;
  }
  say(text);
  draw();
  const { images } = working[0];
  link(id("save_npy"), new Blob([npy(images, model.image)]));
  const canvas = document.createElement("canvas");
  const { rows, columns } = layout(asked.count, names);
  paint(canvas, images, model.image, rows.flatMap(([, which]) => which), columns);
  canvas.toBlob((blob) => link(id("save_png"), blob));
  id("command").textContent = command(asked);
  id("save").hidden = working[0] !== own;
}

function link(anchor, blob) {
  URL.revokeObjectURL(anchor.href);
  anchor.href = URL.createObjectURL(blob);
}

/** Something new is there to see: drawn with the next picture of the screen. */
function changed() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    draw();
  });
}

function draw() {
  const working = lanes().filter((lane) => lane.frames.length > 0);
  if (working.length === 0) return;
  const scrub = id("scrub");
  const most = Math.max(...working.map((lane) => lane.frames.length));
  scrub.disabled = false;
  scrub.max = most;
  if (following) scrub.value = most;
  const at = Number(scrub.value) - 1;
  for (const lane of working) lane.show(lane.frames[Math.min(at, lane.frames.length - 1)], names);
  const { moment, isLast } = working[0].frames[Math.min(at, working[0].frames.length - 1)];
  document.querySelector("output[for=scrub]").value = isLast ? "x₀" : `t = ${moment.t}`;
  id("step_title").textContent = isLast
    ? "The last step"
    : `Step ${moment.step} of ${moment.steps}, t = ${moment.t}`;
  id("equation").replaceChildren(stepEquations(moment, model.prediction));
}

/** Takes a model, or says why it cannot be and keeps the one before. */
async function take(newFiles, newSource) {
  const turn = ++turns;
  id("run").disabled = true;
  try {
    model = await own.load(module, newFiles);
    [files, source] = [newFiles, newSource];
  } catch (error) {
    if (turn !== turns) return;
    if (files) await own.load(module, files);
    id("run").disabled = !files;
    return say(error.message, true);
  }
  exchanged.drop();
  for (const lane of [own, exchanged]) lane.frames = [];
  describe();
  usual();
  if (mask.source) mask.showPicture(...mask.source, model.image);
  id("run").disabled = false;
  await run();
}

async function start() {
  try {
    const [engine, site, ...contents] = await Promise.all([
      get("engine.wasm"),
      get("site.json"),
      ...FILES.map((file) => get(`model/${file}`)),
    ]);
    module = await WebAssembly.compile(engine);
    const { model: name, garments } = JSON.parse(new TextDecoder().decode(site));
    id("garment").append(...garments.map((garment, at) => new Option(garment, at)));
    const strip = await createImageBitmap(new Blob([await get("garments.png")]));
    const side = strip.height;
    const garment = async () => {
      const at = Number(chosen("garment"));
      const picture = await createImageBitmap(strip, at * side, 0, side, side);
      mask.source = [picture, [side, side]];
      if (model) mask.showPicture(...mask.source, model.image);
    };
    id("garment").addEventListener("change", garment);
    await garment();
    await take(FILES.map((file, at) => [file, new Uint8Array(contents[at])]), name);
  } catch (error) {
    say(`The page could not start: ${error.message}`, true);
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
form.addEventListener("input", (event) => {
  if (event.target === id("steps")) id("steps_number").value = id("steps").value;
  if (event.target === id("steps_number")) id("steps").value = id("steps_number").value;
  outputs();
});
form.addEventListener("change", async ({ target }) => {
  if (target === id("sampler")) setSteps(target.value === model.sampler ? model.steps : Math.min(USUAL[target.value], model.timesteps));
  if (target.name === "mode" && target.value === "inpaint" && ["dpm++", "unipc"].includes(chosen("sampler"))) {
    // As the command line: a solver that looks back on earlier steps gives way where pixels are put back.
    id("sampler").value = "ddim";
    setSteps(USUAL.ddim);
  }
  outputs();
  if (target === id("folder")) {
    const picked = [...target.files].map((file) => [file.webkitRelativePath.replace(/^[^/]*\//, ""), file]);
    const used = picked.filter(([path]) => OF_A_MODEL.test(path));
    const folder = target.files[0]?.webkitRelativePath.split("/")[0] ?? "";
    const read = await Promise.all(used.map(async ([path, file]) => [path, new Uint8Array(await file.arrayBuffer())]));
    if (picked.length > 0) await take(read, folder);
  } else if (target === id("own")) {
    if (target.files.length === 0) return;
    try {
      const picture = await createImageBitmap(target.files[0]);
      mask.source = [picture, [picture.height, picture.width]];
      mask.showPicture(...mask.source, model.image);
      soon();
    } catch {
      say(`${target.files[0].name}: this browser cannot read it as a picture`, true);
    }
  } else if (target !== id("brush")) {
    soon();
  }
});
for (const button of document.querySelectorAll("[data-mask]")) {
  button.addEventListener("click", () => {
    mask.fill(button.dataset.mask);
    if (mask.isMarked) soon();
  });
}
id("next").addEventListener("click", () => {
  id("seed").value = Number(id("seed").value) + 1;
  soon();
});
id("stop").addEventListener("click", async () => {
  id("stop").disabled = true;
  turns += 1;
  say("Stopped.");
  for (const lane of lanes()) await lane.stop();
});
id("scrub").addEventListener("input", () => {
  const { value, max } = id("scrub");
  following = value === max;
  draw();
});

start();
