// Images [n, h, w, c] in [-1, 1] on canvases and in files.

const within = (value) => Math.min(1, Math.max(-1, value));

/** The byte of a number in [-1, 1]. */
const byte = (value) => Math.round((within(value) + 1) * 127.5);

/** Draws some of the images side by side, `columns` in a row, with a pixel between them. */
export function draw(canvas, images, [height, width, channels], which, columns) {
  const rows = Math.ceil(which.length / columns);
  canvas.width = columns * (width + 1) - 1;
  canvas.height = rows * (height + 1) - 1;
  const context = canvas.getContext("2d");
  which.forEach((image, place) => {
    const data = context.createImageData(width, height);
    const start = image * height * width * channels;
    for (let pixel = 0; pixel < height * width; pixel++) {
      for (let colour = 0; colour < 3; colour++) {
        const channel = channels >= 3 ? colour : 0;
        data.data[4 * pixel + colour] = byte(images[start + pixel * channels + channel]);
      }
      data.data[4 * pixel + 3] = 255;
    }
    context.putImageData(data, (place % columns) * (width + 1), Math.floor(place / columns) * (height + 1));
  });
}

/** The bytes of a `.npy` file of f32 [n, c, h, w] in [-1, 1], as the command line writes it. */
export function npy(images, [height, width, channels]) {
  const size = height * width * channels;
  const count = images.length / size;
  const start = `{'descr': '<f4', 'fortran_order': False, 'shape': (${count}, ${channels}, ${height}, ${width}), }`;
  const header = start.padEnd(Math.ceil((start.length + 11) / 64) * 64 - 11) + "\n";
  const bytes = new Uint8Array(10 + header.length + 4 * images.length);
  bytes.set([0x93, ...new TextEncoder().encode("NUMPY"), 1, 0]);
  const view = new DataView(bytes.buffer);
  view.setUint16(8, header.length, true);
  bytes.set(new TextEncoder().encode(header), 10);
  let place = 10 + header.length;
  for (let image = 0; image < count; image++) {
    for (let channel = 0; channel < channels; channel++) {
      for (let pixel = 0; pixel < height * width; pixel++, place += 4) {
        view.setFloat32(place, within(images[image * size + pixel * channels + channel]), true);
      }
    }
  }
  return bytes;
}

/** A picture's numbers [h, w, c] in [-1, 1], cut around its centre and resized to the model's size. */
export function pixels(source, [sourceHeight, sourceWidth], [height, width, channels]) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  const scale = Math.min(sourceWidth / width, sourceHeight / height);
  const [cutWidth, cutHeight] = [width * scale, height * scale];
  const from = [(sourceWidth - cutWidth) / 2, (sourceHeight - cutHeight) / 2];
  context.imageSmoothingQuality = "high";
  context.drawImage(source, ...from, cutWidth, cutHeight, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  const numbers = new Float32Array(height * width * channels);
  for (let pixel = 0; pixel < height * width; pixel++) {
    const [red, green, blue] = data.subarray(4 * pixel, 4 * pixel + 3);
    const grey = 0.299 * red + 0.587 * green + 0.114 * blue;
    for (let channel = 0; channel < channels; channel++) {
      const value = channels === 1 ? Math.round(grey) : [red, green, blue][channel % 3];
      numbers[pixel * channels + channel] = value / 127.5 - 1;
    }
  }
  return numbers;
}
