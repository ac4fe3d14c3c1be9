// The page for asking questions about a document. It loads nothing from other hosts, and text of users and of the
// server only becomes text nodes.
"use strict";

const $ = (id) => document.getElementById(id);
const reader = new Reader($("reader"));
const number = new Intl.NumberFormat("en");
let limits = { characters: Infinity };
let measure = "score"; // what the bars of this model show
let shown = null; // the text in the reader, to which the answers belong
let pending = null;
let chosen = null; // the button of the current passage
let marked = null; // the exchange whose passages are marked

function element(tag, className, ...children) {
  const created = document.createElement(tag);
  if (className) created.className = className;
  created.append(...children);
  return created;
}

function fail(message, field) {
  $("error").textContent = message;
  $("status").textContent = "";
  for (const input of [$("question"), $("source"), $("key")]) input.removeAttribute("aria-invalid");
  if (field) {
    field.setAttribute("aria-invalid", "true");
    field.focus();
  }
}

function clearErrors() {
  fail("");
}

// The document ------------------------------------------------------------------------------------------------------

function showSize() {
  const text = $("source").value;
  $("size").textContent = text ? `${number.format(codePoints(text))} characters` : "";
}

function edit() {
  $("jump").hidden = true;
  document.body.classList.remove("reading");
  $("reader").hidden = true;
  $("edit").hidden = true;
  $("source").hidden = false;
}

function openReader(text) {
  if (shown !== text) {
    reader.show(text);
    shown = text;
    $("exchanges").replaceChildren();
  }
  $("source").hidden = true;
  $("reader").hidden = false;
  document.body.classList.add("reading");
  $("edit").hidden = false;
}

function setText(text, name) {
  edit();
  $("source").value = text;
  $("source").scrollTop = 0;
  documentChanged();
  clearErrors();
  $("status").textContent = `${name} opened.`;
  $("question").focus();
}

function documentChanged() {
  showSize();
  if (shown !== null) {
    shown = null;
    reader.show("");
    $("exchanges").replaceChildren();
    pending?.abort();
  }
}

async function openFile(file) {
  if (!file) return;
  if (file.size > 4 * limits.characters) {
    fail(`A document may have at most ${number.format(limits.characters)} characters; ${file.name} has more.`);
    return;
  }
  const bytes = new Uint8Array(await file.arrayBuffer());
  const wide = { "255,254": "utf-16le", "254,255": "utf-16be" }[bytes.slice(0, 2).join()];
  try {
    const text = new TextDecoder(wide ?? "utf-8", { fatal: true }).decode(bytes);
    if (text.includes("\0")) throw new TypeError("not text");
    setText(text, file.name);
  } catch {
    fail(`${file.name} is not a text file in UTF-8. Save it as plain text and open it again.`);
  }
}

$("source").addEventListener("input", documentChanged);
$("edit").addEventListener("click", () => {
  edit();
  $("source").focus();
});
$("open").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  openFile($("file").files[0]);
  $("file").value = "";
});
$("example").addEventListener("click", async () => {
  const response = await fetch("static/example.txt");
  setText(await response.text(), "The example");
  $("question").value = "Who gave money for the harbour?";
  $("question").select();
});

let depth = 0; // dragenter and dragleave are sent for every element that the pointer crosses
const carriesFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
addEventListener("dragenter", (event) => {
  if (!carriesFile(event)) return;
  depth += 1;
  $("drop").hidden = false;
});
addEventListener("dragleave", (event) => {
  if (!carriesFile(event)) return;
  depth = Math.max(0, depth - 1);
  $("drop").hidden = depth === 0;
});
addEventListener("dragover", (event) => carriesFile(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault();
  depth = 0;
  $("drop").hidden = true;
  openFile(event.dataTransfer.files[0]);
});

// Questions ---------------------------------------------------------------------------------------------------------

async function ask() {
  const question = $("question").value.trim();
  const text = $("source").value;
  if (!text.trim()) return fail("Paste or open a document first.", $("source"));
  if (!question) return fail("Type a question first.", $("question"));
  const size = codePoints(text);
  if (size + question.length > limits.characters) {
    return fail(`A document may have at most ${number.format(limits.characters)} characters; this one has ${number.format(size)}.`);
  }
  pending?.abort();
  const request = (pending = new AbortController());
  clearErrors();
  $("status").textContent = "Reading the document …";
  $("cancel").hidden = false;
  $("exchanges").setAttribute("aria-busy", "true");
  try {
    const answers = await answersTo(question, text, request.signal);
    openReader(text);
    show(question, answers);
  } catch (error) {
    if (request.signal.aborted) {
      if (pending === request) $("status").textContent = "Cancelled.";
    } else {
      fail(error.message, error.field);
    }
  } finally {
    if (pending === request) {
      pending = null;
      $("cancel").hidden = true;
      $("exchanges").removeAttribute("aria-busy");
    }
  }
}

async function answersTo(question, text, signal) {
  const headers = { "Content-Type": "application/json" };
  if ($("key").value) headers.Authorization = `Bearer ${$("key").value}`;
  const parameters = {
    evidence: true,
    handle_impossible_answer: $("impossible").checked,
  };
  const body = JSON.stringify({ inputs: { question, context: text }, parameters });
  let response;
  try {
    response = await fetch("./", { method: "POST", headers, body, signal });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Error("The server does not respond. Is it still running?");
  }
  const result = await response.json().catch(() => null);
  if (response.ok && result) return result.slice(0, Math.min(20, Math.max(1, Math.round($("count").valueAsNumber) || 10)));
  const error = new Error(result?.error ?? `The server answered with status ${response.status}.`);
  if (response.status === 401) {
    $("key-row").hidden = false;
    error.field = $("key");
  }
  throw error;
}

const percent = (score) => (score > 0 && score < 0.01 ? "under 1 %" : `${Math.round(100 * score)} %`);

function show(question, answers) {
  const passages = answers.filter((answer) => answer.answer !== "");
  const exchange = element("li", "exchange", element("h3", "", question));
  if (passages.length) {
    exchange.append(list(passages));
    exchange.passages = passages;
  } else {
    const [none] = answers;
    const card = element("p", "candidate best none", element("span", "text", "No answer in this text"), ...scoreOf(none.score));
    exchange.append(card);
  }
  $("exchanges").prepend(exchange);
  choose(exchange.querySelector("button"));
  if (!passages.length) {
    $("status").textContent = `No answer in this text, ${measure} ${percent(answers[0].score)}.`;
  } else {
    const marked = passages.length > 1 ? `${passages.length} passages are marked in the document.` : "Marked in the document.";
    $("status").textContent = `Answer: ${passages[0].answer}, ${measure} ${percent(passages[0].score)}. ${marked}`;
  }
  $("question").focus({ preventScroll: true });
  $("question").select();
}

// Returns a score as text and as a bar, which is for the eyes alone.
function scoreOf(score) {
  const text = element("span", "score", percent(score));
  text.prepend(element("span", "unseen", `${measure} `));
  const bar = document.createElement("i");
  bar.style.width = `${100 * score}%`;
  const gauge = element("span", "gauge", bar);
  gauge.setAttribute("aria-hidden", "true");
  return [text, gauge];
}

function list(passages) {
  const items = element("ol", "candidates");
  passages.forEach((passage, number) => {
    const button = element("button", number ? "candidate" : "candidate best");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.append(element("span", "text", passage.answer), ...scoreOf(passage.score));
    const [before, answer, after] = reader.sentence(passage);
    button.append(element("span", "around", before, element("b", "", answer), after));
    button.addEventListener("click", () => choose(button));
    items.append(element("li", "", button));
  });
  return items;
}

// Marks all passages of a button's question, and goes to its own. Without a button, removes all marks.
function choose(button) {
  for (const other of document.querySelectorAll('.candidate[aria-pressed="true"]')) {
    other.setAttribute("aria-pressed", "false");
  }
  chosen = button;
  $("jump").hidden = true;
  if (!button) return reader.mark([]);
  openReader(shown);
  button.setAttribute("aria-pressed", "true");
  const exchange = button.closest(".exchange");
  const number = buttonsOf(button).indexOf(button);
  const total = exchange.passages.length;
  if (marked !== exchange || !reader.marked.length) reader.mark(exchange.passages);
  marked = exchange;
  reader.goTo(number);
  $("jump").hidden = total < 2;
  $("place").textContent = `${number + 1} of ${total}`;
}

const buttonsOf = (button) => [...button.closest(".exchange").querySelectorAll("button.candidate")];

// Goes to the next passage, or with -1 to the previous one; after the last comes the first.
function jump(step) {
  const buttons = buttonsOf(chosen);
  const number = (buttons.indexOf(chosen) + step + buttons.length) % buttons.length;
  choose(buttons[number]);
  const { answer, score } = marked.passages[number];
  $("status").textContent = `Passage ${number + 1} of ${buttons.length}: ${answer}, ${measure} ${percent(score)}.`;
}

$("previous").addEventListener("click", () => jump(-1));
$("next").addEventListener("click", () => jump(1));

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
$("cancel").addEventListener("click", () => {
  pending?.abort();
  $("question").focus();
});

fetch("health")
  .then((response) => response.json())
  .then((health) => {
    $("model").textContent = health.model;
    limits = health.limits;
    if (health.calibration) measure = "probability";
    $("impossible").checked = health.parameters.handle_impossible_answer;
  })
  .catch(() => fail("The server does not respond. Is it still running?"));
showSize(); // a browser may keep the text when it reloads the page
