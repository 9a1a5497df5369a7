// The picture whose marked pixels are painted anew.

import { pixels } from "./images.js";

const CELL = 8;

export class Mask {
  /** `changed` is called after every stroke. */
  constructor(canvas, brush, changed) {
    Object.assign(this, { canvas, brush, changed, cursor: null });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      const [row, column] = this.place(event);
      this.marks = !this.marked[row * this.width + column];
      this.stroke(row, column);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (canvas.hasPointerCapture(event.pointerId)) this.stroke(...this.place(event));
    });
    canvas.addEventListener("pointerup", () => this.changed());
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => {
      this.cursor = null;
      this.draw();
    });
  }

  /** Takes a picture's numbers [h, w, c]; the mask stays where it fits, else the lower half is marked. */
  show(numbers, [height, width, channels]) {
    const fits = this.marked?.length === height * width && this.width === width;
    Object.assign(this, { numbers, height, width, channels });
    if (!fits) this.fill("lower");
    this.draw();
  }

  /** Takes a picture of any size. */
  showPicture(source, size, image) {
    this.show(pixels(source, size, image), image);
  }

  /** Marks the upper half, the lower half or nothing. */
  fill(part) {
    const middle = Math.floor(this.height / 2);
    this.marked = Array.from({ length: this.height * this.width }, (_, pixel) => {
      const row = Math.floor(pixel / this.width);
      return part === "upper" ? row < middle : part === "lower" && row >= middle;
    });
    this.draw();
  }

  /** Whether anything is marked. */
  get isMarked() {
    return this.marked.some((marked) => marked);
  }

  /** The picture and the mask as the engine takes them. */
  get both() {
    const all = new Float32Array(this.numbers.length + this.marked.length);
    all.set(this.numbers);
    all.set(this.marked.map(Number), this.numbers.length);
    return all;
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const within = (value, length) => Math.min(length - 1, Math.max(0, Math.floor(value * length)));
    const row = within((event.clientY - box.top) / box.height, this.height);
    return [row, within((event.clientX - box.left) / box.width, this.width)];
  }

  stroke(row, column) {
    const reach = (Number(this.brush.value) - 1) / 2;
    for (let y = Math.ceil(row - reach); y <= row + reach; y++) {
      for (let x = Math.ceil(column - reach); x <= column + reach; x++) {
        if (y >= 0 && y < this.height && x >= 0 && x < this.width) this.marked[y * this.width + x] = this.marks;
      }
    }
    this.draw();
  }

  key(event) {
    const ways = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const [row, column] = this.cursor ?? [this.height >> 1, this.width >> 1];
    if (event.key in ways) {
      const within = (value, length) => Math.min(length - 1, Math.max(0, value));
      const [down, right] = ways[event.key];
      this.cursor = [within(row + down, this.height), within(column + right, this.width)];
      this.draw();
    } else if (event.key === " ") {
      this.cursor = [row, column];
      this.marks = !this.marked[row * this.width + column];
      this.stroke(row, column);
      this.changed();
    } else {
      return;
    }
    event.preventDefault();
  }

  draw() {
    const { canvas, height, width, channels } = this;
    canvas.width = width * CELL;
    canvas.height = height * CELL;
    const context = canvas.getContext("2d");
    for (let pixel = 0; pixel < height * width; pixel++) {
      const [row, column] = [Math.floor(pixel / width), pixel % width];
      const value = (channel) => Math.round((this.numbers[pixel * channels + channel] + 1) * 127.5);
      const colour = channels >= 3 ? [value(0), value(1), value(2)] : [value(0), value(0), value(0)];
      context.fillStyle = `rgb(${colour.join(" ")})`;
      context.fillRect(column * CELL, row * CELL, CELL, CELL);
      if (this.marked[pixel]) {
        context.fillStyle = "rgb(240 110 30 / 60%)";
        context.fillRect(column * CELL, row * CELL, CELL, CELL);
      }
    }
    if (this.cursor) {
      context.strokeStyle = "rgb(20 140 255)";
      context.lineWidth = 2;
      context.strokeRect(this.cursor[1] * CELL + 1, this.cursor[0] * CELL + 1, CELL - 2, CELL - 2);
    }
  }
}
