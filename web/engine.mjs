// The page's engine in Node, for measurements and tests.
import { readFileSync } from "node:fs";
import { join } from "node:path";

const FILES = [
  "model_index.json",
  "unet/config.json",
  "unet/diffusion_pytorch_model.safetensors",
  "scheduler/scheduler_config.json",
];

/** The engine that was built into a file, with the model of a folder. */
export function load(file = join(import.meta.dirname, "page/engine.wasm"), folder = join(import.meta.dirname, "../data/fashion-model")) {
  let told;
  const tell = (text, textLength, numbers, numbersLength) => {
    const { buffer } = engine.memory;
    const message = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, text, textLength)));
    told.push({ ...message, numbers: new Float32Array(buffer.slice(numbers, numbers + 4 * numbersLength)) });
  };
  const module = new WebAssembly.Module(readFileSync(file));
  const engine = new WebAssembly.Instance(module, { env: { tell } }).exports;
  const write = (...parts) => {
    let place = engine.reserve(parts.reduce((length, part) => length + part.length, 0));
    for (const part of parts) {
      new Uint8Array(engine.memory.buffer).set(part, place);
      place += part.length;
    }
  };
  /** Everything that is told for a request. */
  const ask = (request) => {
    told = [];
    const json = new TextEncoder().encode(JSON.stringify(request));
    write(json);
    engine.answer(json.length);
    const { told: kind, message } = told.at(-1);
    if (kind === "error") throw new Error(message);
    return told;
  };
  for (const path of FILES) {
    const name = new TextEncoder().encode(path);
    write(name, readFileSync(join(folder, path)));
    engine.add_file(name.length);
  }
  const [model] = ask({ do: "load" });
  return { model, ask };
}
