// The page: reads the folder `model/` beside it, or the one that ?model=… names.

import { Reader } from "./reader.js";

const asked = new URLSearchParams(location.search);
const form = document.querySelector("form");
const shown = { answer: document.querySelector("#answer"), document: document.querySelector("#document") };

function show({ answer, start, end, windows }, text) {
  const characters = (units) => [...text.slice(0, units)].length;
  shown.answer.textContent = answer
    ? `“${answer}”, characters ${characters(start)} to ${characters(end)}, read in ${windows} window(s)`
    : "The document does not answer this.";
  const mark = document.createElement("mark");
  mark.textContent = text.slice(start, end);
  shown.document.replaceChildren(text.slice(0, start), mark, text.slice(end));
}

async function run(work) {
  form.querySelector("button").disabled = true;
  try {
    await work();
  } catch (error) {
    shown.answer.textContent = `Failed: ${error.message}`;
  }
  form.querySelector("button").disabled = false;
}

let reader;
await run(async () => {
  reader = await Reader.open(asked.get("model") ?? "model/", "node_modules/", asked.get("dtype") ?? "q8");
  shown.answer.textContent = "Ready.";
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const [text, question] = [form.elements.document.value, form.elements.question.value];
  run(async () => {
    shown.answer.textContent = "Reading …";
    show(await reader.answer(question, text), text);
  });
});
