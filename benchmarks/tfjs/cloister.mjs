// Our side: the same module that clients run, all rows in one call.

import { Task } from './task.mjs';

function passes(entry, folder, rows, batch) {
  const task = new Task(folder);
  const losses = [];
  return {
    steps: rows / batch,
    losses,
    call() {
      task.call('reset'); // the metrics begin at zero
      task.call(entry, rows);
      losses.push(task.view('loss')[0] / rows);
    },
  };
}

/**
 * By work, its forms by name, each a function that prepares it. What it returns: `call`, which
 * makes so many `steps` and leaves the mean loss of their rows at the end of `losses`.
 */
export const WORKS = {
  mlp: (...task) => ({ train: () => passes('train', ...task) }),
  cnn: (...task) => ({ train: () => passes('train', ...task) }),
  mobilenet: (...task) => ({ predict: () => passes('predict', ...task) }),
};
