// Runs a Python script beside the package of a wheel, in Python as a page has it (Pyodide: CPython in WebAssembly).
//
//     node run.mjs node_modules/pyodide distlab-0.1.0-py3-none-any.whl predictions.py
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [home, wheel, script] = process.argv.slice(2).map((path) => resolve(path));
try {
  const { loadPyodide } = await import(pathToFileURL(`${home}/pyodide.mjs`));
  const python = await loadPyodide();
  python.unpackArchive(new Uint8Array(readFileSync(wheel)), "wheel");
  python.runPython(readFileSync(script, "utf8"));
} catch (error) {
  console.error(error.message); // with Python's traceback; uncaught, node prints a line of the bundle, too: 2 MB of it
  process.exitCode = 1;
}
