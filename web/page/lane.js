// A worker with the model in it, what it has told, and its place in the page.

import { draw } from "./images.js";

/** The most moments that are kept to look at; of more, every second one is dropped. */
const MOST = 200;

const make = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

/** Which of so many images stand in which row, a row for each class where there are names, and the columns. */
export function layout(count, names) {
  const all = Array.from({ length: count }, (_, i) => i);
  if (names.length === 0) return { rows: [["", all]], columns: count <= 3 ? count : Math.ceil(count / 2) };
  const rows = names.map((name, at) => [name, all.filter((i) => i % names.length === at)]);
  return { rows, columns: Math.ceil(count / names.length) };
}

export class Lane {
  /** `exchanged` says which attention it is; `changed` is called whenever there is something new to see. */
  constructor(exchanged, changed) {
    Object.assign(this, { exchanged, changed, asked: 0, frames: [], every: 1, title: make("h3") });
    this.progress = make("progress", { max: 1, value: 0 });
    this.progress.setAttribute("aria-label", "Steps done");
    this.note = make("small");
    this.before = make("div");
    this.after = make("div");
    const figure = (place, caption) => make("figure", {}, make("figcaption", {}, ...caption), place);
    this.element = make(
      "div",
      { className: "lane" },
      this.title,
      this.progress,
      make(
        "div",
        { className: "grids" },
        figure(this.before, ["x", make("sub", { textContent: "t" }), ", what the network is given"]),
        figure(this.after, ["x̂", make("sub", { textContent: "0" }), ", what it takes for the image"]),
      ),
      this.note,
    );
  }

  /** Starts the worker anew with a model, and returns what it is, or throws why it cannot be used. */
  async load(module, files) {
    this.drop();
    Object.assign(this, { module, files, worker: new Worker("worker.js") });
    this.worker.onmessage = ({ data }) => this.hear(data);
    const loading = this.ask({ module, files }, () => {});
    this.loading = loading;
    const told = await loading;
    if (this.loading === loading) this.loading = null;
    if (told.told !== "loaded") throw new Error(told.message);
    Object.assign(this, { model: told, image: told.image });
    return told;
  }

  /** Ends the worker; whatever it was doing is stopped. */
  drop() {
    this.worker?.terminate();
    this.running?.finish({ told: "stopped", message: "stopped" });
    Object.assign(this, { model: null, running: null, loading: null });
  }

  /** Asks for something; resolves with the last message, after `step` was called for each before it. */
  ask(message, step, transfer = []) {
    this.asked += 1;
    return new Promise((finish) => {
      this.running = { asked: this.asked, step, finish };
      this.worker.postMessage({ asked: this.asked, ...message }, transfer);
    });
  }

  hear({ asked, told, numbers }) {
    if (asked !== this.running?.asked) return;
    if (told.told === "step") {
      this.running.step(told, numbers);
    } else {
      const { finish } = this.running;
      this.running = null;
      finish({ ...told, numbers });
    }
  }

  /** Drops what runs, if anything does: the engine hears nothing before it is done. */
  async stop() {
    if (this.loading) await this.loading;
    else if (this.running) await this.load(this.module, this.files);
  }

  /** Runs a request, if it is still wanted when the engine is free, and keeps what it tells. */
  async run(request, numbers, isWanted) {
    await this.stop();
    if (!isWanted()) return { told: "stopped" };
    Object.assign(this, { frames: [], every: 1, images: null, seconds: null });
    const start = performance.now();
    const step = (moment, both) => {
      if ((moment.call - 1) % this.every === 0) {
        const half = both.length / 2;
        this.frames.push({ moment, x: both.subarray(0, half), x0: both.subarray(half) });
      }
      if (this.frames.length > MOST) {
        this.frames = this.frames.filter((_, at) => at % 2 === 0);
        this.every *= 2;
      }
      this.progress.max = moment.calls;
      this.progress.value = moment.call - 1;
      this.changed();
    };
    const wanted = { ...request, exchanged: this.exchanged };
    const last = await this.ask({ request: wanted, numbers }, step);
    if (last.told === "done") {
      this.seconds = (performance.now() - start) / 1000;
      this.images = last.numbers;
      this.progress.value = this.progress.max;
      const { moment } = this.frames.at(-1);
      this.frames.push({ moment, x: this.images, x0: this.images, isLast: true });
      this.changed();
    }
    return last;
  }

  /** Shows one of the frames; images are in rows by class where there are names. */
  show(frame, names) {
    const { image } = this;
    const { rows, columns } = layout(frame.x.length / image.reduce((a, b) => a * b), names);
    for (const [place, images, what] of [[this.before, frame.x, "x_t"], [this.after, frame.x0, "predicted x_0"]]) {
      const shown = `${names.join()} ${rows[0][1].length}`;
      if (place.dataset.shown !== shown) {
        place.dataset.shown = shown;
        place.className = names.length > 0 ? "by_class" : "";
        place.replaceChildren(...rows.flatMap(([name]) => {
          const canvas = make("canvas");
          canvas.setAttribute("role", "img");
          canvas.setAttribute("aria-label", name ? `${what}, ${name}` : `${what} of all images`);
          if (name) canvas.style.maxWidth = `${5 * columns}rem`;
          return name ? [make("span", { textContent: name }), canvas] : [canvas];
        }));
      }
      [...place.querySelectorAll("canvas")].forEach((canvas, at) => draw(canvas, images, image, rows[at][1], columns));
    }
  }
}
