// The page: the token, which brain is decoded, and the requests that are under way.

import { ask, call, pause, read, Refusal, stopped } from "./service.js";
import * as view from "./view.js";
import { readVoxels, Unfit } from "./voxels.js";

const CANDIDATES = 6;
const MATCHES = 8;
const SETTLE = 250; // milliseconds without another step before a brain is decoded
const UNFIT = [413, 415, 422]; // statuses of voxels that no second try will make better
const KEPT = "mindeye-token";

const byId = (id) => document.getElementById(id);
const [number, tokenField, fileField] = ["number", "token", "file"].map(byId);

let token = "";
let card; // ModelCard of the model that answered last
let samples; // Samples
let asked; // AbortController of what was asked of the service last, of which everything else hangs
let drawing; // AbortController of the drawing alone
let brain; // {sample, body, type} of what is shown
let shown = number.value; // what the field holds unless somebody is typing
let seenAddress = ""; // blob: URL of the seen picture

// --- the token

/** Return the token of the address's fragment, which is then removed from the address. */
function tokenOfAddress() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (found !== null) history.replaceState(null, "", location.pathname + location.search);
  return found?.trim() ?? "";
}

/** Keep the token until the tab is closed; a browser that keeps nothing is no reason to stop. */
function keep(words) {
  try {
    if (words) sessionStorage.setItem(KEPT, words);
    else sessionStorage.removeItem(KEPT);
  } catch {
    // It is asked for again after a reload.
  }
}

function kept() {
  try {
    return sessionStorage.getItem(KEPT) ?? "";
  } catch {
    return "";
  }
}

/** Stop what is under way; what comes next hangs from the signal. */
function restart() {
  asked?.abort();
  asked = new AbortController();
  return asked.signal;
}

async function connect(candidate, focus) {
  const signal = restart();
  view.problem("token-problem", "");
  tokenField.removeAttribute("aria-invalid");
  try {
    if (!/^[\x21-\x7e]+$/.test(candidate)) throw new Refusal(401);
    const waiting = (words) => view.problem("token-problem", words);
    const options = { token: candidate, signal, waiting };
    [card, samples] = await Promise.all([
      ask("v1/model", options),
      ask("v1/samples", options),
    ]);
    token = candidate;
    keep(token);
    tokenField.value = "";
    view.showCard(card);
    view.showSamples(samples, card);
    view.unlock(true);
    if (focus) (samples.count ? number : byId("choose")).focus();
  } catch (error) {
    if (stopped(error)) return;
    if (!(error instanceof Refusal)) throw error;
    lock(error);
  }
}

/** Show the field for a token, and why it is needed; only a wrong token is forgotten. */
function lock(error) {
  asked?.abort();
  token = "";
  const wrong = !error || error.status === 401;
  if (wrong) keep("");
  view.unlock(false);
  byId("result").hidden = true;
  view.problem("token-problem", error?.message ?? "");
  if (error && wrong) tokenField.setAttribute("aria-invalid", "true");
  if (!wrong && !tokenField.value) tokenField.value = kept();
  tokenField.focus();
}

// --- which brain

/** Show brain `wanted` (from 0, and round from the last to the first) in the field and decode it. */
function goTo(wanted) {
  const rest = Math.round(wanted) % samples.count;
  decodeSample(rest < 0 ? rest + samples.count : rest);
}

/** Decode the brain whose number is in the field, which counts from 1. */
function decodeField() {
  const sample = Number(number.value) - 1;
  const known = Number.isInteger(sample) && sample >= 0 && sample < samples.count;
  if (known) return decodeSample(sample);
  number.setAttribute("aria-invalid", "true");
  asked?.abort();
  return view.problem("input-problem", `Brains are numbered from 1 to ${samples.count}.`);
}

function decodeSample(sample) {
  number.value = shown = String(sample + 1);
  number.removeAttribute("aria-invalid");
  const title = `Brain ${sample + 1} of ${samples.count.toLocaleString("en")}`;
  decode({ title, sample }, async (options) => {
    await pause(SETTLE, options.signal);
    showSeen(sample, options);
    const response = await call(`v1/samples/${sample}`, options);
    const body = await read(response, (answer) => answer.arrayBuffer());
    return { body, type: "application/x-npy" };
  });
}

async function showSeen(sample, options) {
  let address = "";
  try {
    const response = await call(`v1/samples/${sample}/picture`, options);
    address = URL.createObjectURL(await read(response, (answer) => answer.blob()));
  } catch (error) {
    if (stopped(error)) return;
  }
  URL.revokeObjectURL(seenAddress);
  seenAddress = address;
  view.showSeen(address, sample);
}

async function decodeFiles(files) {
  if (!token) return view.problem("token-problem", "The service takes files after the token.");
  view.problem("input-problem", "");
  const signal = restart(); // a file that is still being read is not decoded after another
  try {
    if (files.length !== 1) throw new Unfit("One file at a time, please.");
    const found = await readVoxels(files[0], card.num_voxels);
    if (!signal.aborted) await decode({ title: files[0].name }, () => found);
  } catch (error) {
    if (!(error instanceof Unfit)) throw error;
    byId("result").hidden = true; // what is shown would pass for this file's
    view.problem("input-problem", error.message);
  }
  return undefined;
}

// --- what the service makes of it

/** Decode what `load` gives, unless another brain comes. */
async function decode(input, load) {
  const signal = restart();
  view.problem("input-problem", "");
  brain = undefined;
  const drawn = card.generator ? Math.min(CANDIDATES, card.max_candidates) : 0;
  const matches = Math.min(MATCHES, card.gallery.pictures);
  view.begin({ ...input, candidates: drawn, matches });
  try {
    const waiting = (words) => view.state("retrieve-state", words);
    brain = { ...input, ...(await load({ token, signal, waiting })) };
    await Promise.all([retrieve(signal, matches), drawn && draw(signal, drawn)]);
  } catch (error) {
    if (stopped(error)) return;
    view.giveUp(drawn);
    told("result-problem", error, view.problem);
  }
}

async function retrieve(signal, matches) {
  const id = "retrieve-state";
  view.state(id, "Searching the gallery.");
  const started = performance.now();
  try {
    const { sample, body, type } = brain;
    const waiting = (words) => view.state(id, words || "Searching the gallery.");
    const options = { token, body, type, signal, waiting };
    const answer = await ask(`v1/retrieve?k=${matches}&pictures=webp`, options);
    const took = performance.now() - started;
    await follow(answer.model, signal);
    // In the gallery of the test split, a picture's number is that of the sample.
    const described = card.model === answer.model;
    const numbered = described && card.gallery.pictures === samples.count;
    view.showMatches(answer, numbered ? sample : undefined);
    view.showLead(answer.lead, described && card.gallery.val_leads);
    view.state(id, view.answeredBy(answer.model, took));
  } catch (error) {
    if (!stopped(error)) view.clearMatches();
    told(id, error, (place, words) => view.state(place, words, true));
  }
}

async function draw(parent, candidates) {
  drawing = new AbortController();
  const signal = AbortSignal.any([parent, drawing.signal]);
  const words = `Drawing ${candidates} candidates.`;
  const started = performance.now();
  const elapsed = () => Math.floor((performance.now() - started) / 1000);
  const clock = setInterval(() => view.state("elapsed", `${elapsed()} s`), 1000);
  view.placesForDrawings(candidates, "pending");
  view.state("draw-state", words);
  byId("cancel").hidden = false;
  byId("again").hidden = true;
  try {
    const { body, type } = brain;
    const waiting = (message) => view.state("draw-state", message || words);
    const options = { token, body, type, signal, waiting };
    const answer = await ask(`v1/reconstruct?candidates=${candidates}&pictures=webp`, options);
    const took = performance.now() - started;
    await follow(answer.model, signal);
    view.showDrawings(answer);
    const chosen = `Candidate ${answer.chosen + 1} of ${answer.candidates.length} is chosen. `;
    view.state("draw-state", [chosen, ...view.answeredBy(answer.model, took)]);
  } catch (error) {
    if (parent.aborted) return;
    if (error.status === 404) return view.hideDrawings();
    view.placesForDrawings(candidates, "none");
    byId("again").hidden = UNFIT.includes(error.status);
    if (stopped(error)) view.state("draw-state", "Drawing was cancelled.");
    else told("draw-state", error, (place, message) => view.state(place, message, true));
  } finally {
    clearInterval(clock);
    if (!parent.aborted) {
      const focused = document.activeElement === byId("cancel");
      byId("cancel").hidden = true;
      if (focused) (byId("again").hidden ? byId("main") : byId("again")).focus({ preventScroll: true });
      view.state("elapsed", "");
    }
  }
  return undefined;
}

/** Read the card again where another model answered, as happens when the champion moves. */
async function follow(model, signal) {
  if (model === card.model) return;
  try {
    card = await ask("v1/model", { token, signal });
    view.showCard(card);
    view.showSamples(samples, card);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error; // the answer is worth more than the card
  }
}

/** Show an error in its place; a refused token ends everything. */
function told(id, error, show) {
  if (stopped(error)) return;
  if (!(error instanceof Refusal)) throw error;
  if (error.status === 401) lock(error);
  else show(id, error.message);
}

// --- what the reader does

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  connect(tokenField.value.trim(), true);
});
byId("forget").addEventListener("click", () => lock());
byId("previous").addEventListener("click", () => goTo(Number(number.value) - 2));
byId("next").addEventListener("click", () => goTo(Number(number.value)));
byId("random").addEventListener("click", () => goTo(Math.floor(Math.random() * samples.count)));
byId("decode").addEventListener("click", decodeField);
byId("cancel").addEventListener("click", () => drawing.abort());
byId("again").addEventListener("click", () => {
  draw(asked.signal, Math.min(CANDIDATES, card.max_candidates));
  byId("cancel").focus({ preventScroll: true });
});
number.addEventListener("change", decodeField);
number.addEventListener("keydown", (event) => {
  if (event.key === "Enter") decodeField();
});
byId("samples").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
  if (event.target === number && number.value !== shown) return; // moves in what is being typed
  event.preventDefault();
  goTo(Number(number.value) - 1 + step);
});
byId("choose").addEventListener("click", () => fileField.click());
fileField.addEventListener("change", async () => {
  const files = [...fileField.files];
  fileField.value = ""; // so that the same file can be chosen again
  if (files.length) await decodeFiles(files);
});

const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
for (const name of ["dragenter", "dragover"]) {
  addEventListener(name, (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
}
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
addEventListener("drop", (event) => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  document.body.classList.remove("dropping");
  decodeFiles([...event.dataTransfer.files]);
});
addEventListener("hashchange", () => {
  const found = tokenOfAddress();
  if (found) connect(found, true);
});

const first = tokenOfAddress() || kept();
if (first) connect(first, false);
else lock();
