// The speed of the page's engine in Node, on one core: `node web/measure.mjs [ENGINE.wasm [MODEL_FOLDER]]`.
import { load } from "./engine.mjs";

const { model, ask } = load(...process.argv.slice(2));
console.log(`kernels: ${model.isa}`);
for (const count of [1, 8]) {
  for (const exchanged of [false, true]) {
    const seconds = Array.from({ length: 5 }, (_, seed) => {
      const start = performance.now();
      ask({ do: "sample", sampler: "ddim", steps: 50, count, seed, exchanged });
      return (performance.now() - start) / 1000;
    });
    const best = Math.min(...seconds);
    const each = ((1000 * best) / 50 / count).toFixed(2);
    console.log(`50 steps, ${count} image(s), ${exchanged ? model.exchanged : model.attention}: ${best.toFixed(2)} s, ${each} ms a call and image`);
  }
}
