// A compiled task in a JavaScript engine: what a browser page needs to train one.

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const ARRAYS = { DTYPE_F32: Float32Array, DTYPE_F64: Float64Array, DTYPE_I32: Int32Array };

export class Task {
  /** An instance of `task.wasm` in a folder; files beside it, named like buffers, fill those. */
  constructor(folder) {
    const module = new WebAssembly.Module(readFileSync(join(folder, 'task.wasm')));
    const [section] = WebAssembly.Module.customSections(module, 'cloister.manifest');
    this.buffers = JSON.parse(new TextDecoder().decode(section)).buffers;
    this.exports = new WebAssembly.Instance(module).exports;
    const memory = new Uint8Array(this.exports.memory.buffer);
    for (const { name, offset = 0 } of this.buffers) {
      const file = join(folder, name);
      if (existsSync(file)) memory.set(readFileSync(file), Number(offset));
    }
  }

  /** A buffer's elements, as a view of the memory. */
  view(name) {
    const { dtype, shape = [], offset = 0 } = this.buffers.find((buffer) => buffer.name === name);
    const elements = shape.reduce((product, size) => product * size, 1);
    return new ARRAYS[dtype](this.exports.memory.buffer, Number(offset), elements);
  }

  /** Call an entry point; a status other than 0 is an error. */
  call(name, ...numbers) {
    const status = this.exports[name](...numbers);
    if (status !== 0) throw new Error(`${name}(${numbers}) ended with status ${status}`);
  }
}
