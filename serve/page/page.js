// Controller of the page: the token, the choice of a brain, and the requests under way.

import { ask, call, isAborted, pause, read, Refusal } from "./service.js";
import * as view from "./view.js";
import { readVoxels, Unfit } from "./voxels.js";

const CANDIDATES = 6;
const MATCHES = 8;
const SETTLE_MS = 250; // wait for another step before a brain is decoded
const UNFIT = [413, 415, 422]; // statuses of voxels for which a retry is useless
const TOKEN_KEY = "mindeye-token";

const byId = (id) => document.getElementById(id);
const [number, tokenField, fileField] = ["number", "token", "file"].map(byId);

let token = "";
let card; // ModelCard of the model that answered last
let samples; // Samples
let work; // AbortController of the current work; aborting it stops every request
let drawing; // AbortController of the drawing alone
let brain; // {sample, body, type} of the shown brain
let settledNumber = number.value; // value of the field before the user began to type
let seenAddress = ""; // blob: URL of the seen picture

// --- the token

/** Return the token in the address's fragment, and remove it from the address. */
function tokenOfAddress() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (found !== null) history.replaceState(null, "", location.pathname + location.search);
  return found?.trim() ?? "";
}

/** Store the token until the tab is closed; a browser without storage is no error. */
function storeToken(words) {
  try {
    if (words) sessionStorage.setItem(TOKEN_KEY, words);
    else sessionStorage.removeItem(TOKEN_KEY);
  } catch {
    // The user enters it again after a reload.
  }
}

function storedToken() {
  try {
    return sessionStorage.getItem(TOKEN_KEY) ?? "";
  } catch {
    return "";
  }
}

/** Abort the current work; return the signal of the next. */
function restart() {
  work?.abort();
  work = new AbortController();
  return work.signal;
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
    storeToken(token);
    tokenField.value = "";
    view.showCard(card);
    view.showSamples(samples, card);
    view.unlock(true);
    if (focus) (samples.count ? number : byId("choose")).focus();
  } catch (error) {
    if (isAborted(error)) return;
    if (!(error instanceof Refusal)) throw error;
    lock(error);
  }
}

/** Show the token field and the reason; only a wrong token is forgotten. */
function lock(error) {
  work?.abort();
  token = "";
  const wrong = !error || error.status === 401;
  if (wrong) storeToken("");
  view.unlock(false);
  byId("result").hidden = true;
  view.problem("token-problem", error?.message ?? "");
  if (error && wrong) tokenField.setAttribute("aria-invalid", "true");
  if (!wrong && !tokenField.value) tokenField.value = storedToken();
  tokenField.focus();
}

// --- choice of the brain

/** Decode brain `wanted`, counted from 0; beyond the last comes the first. */
function goTo(wanted) {
  const rest = Math.round(wanted) % samples.count;
  decodeSample(rest < 0 ? rest + samples.count : rest);
}

/** Decode the brain in the number field, which counts from 1. */
function decodeField() {
  const sample = Number(number.value) - 1;
  const exists = Number.isInteger(sample) && sample >= 0 && sample < samples.count;
  if (exists) return decodeSample(sample);
  number.setAttribute("aria-invalid", "true");
  work?.abort();
  return view.problem("input-problem", `Brains are numbered from 1 to ${samples.count}.`);
}

function decodeSample(sample) {
  number.value = settledNumber = String(sample + 1);
  number.removeAttribute("aria-invalid");
  const title = `Brain ${sample + 1} of ${samples.count.toLocaleString("en")}`;
  decode({ title, sample }, async (options) => {
    await pause(SETTLE_MS, options.signal);
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
    if (isAborted(error)) return;
  }
  URL.revokeObjectURL(seenAddress);
  seenAddress = address;
  view.showSeen(address, sample);
}

async function decodeFiles(files) {
  if (!token) return view.problem("token-problem", "Enter the token before a file.");
  view.problem("input-problem", "");
  const signal = restart(); // a file still being read is dropped when another comes
  try {
    if (files.length !== 1) throw new Unfit("One file at a time, please.");
    const found = await readVoxels(files[0], card.num_voxels);
    if (!signal.aborted) await decode({ title: files[0].name }, () => found);
  } catch (error) {
    if (!(error instanceof Unfit)) throw error;
    byId("result").hidden = true; // it would look like the result of this file
    view.problem("input-problem", error.message);
  }
  return undefined;
}

// --- requests for a brain

/** Decode the voxels that `load` returns, until another brain is chosen. */
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
    if (isAborted(error)) return;
    view.showFailure(drawn);
    showError("result-problem", error, view.problem);
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
    await refreshCard(answer.model, signal);
    // If the gallery is the test split, picture and sample have the same number.
    const described = card.model === answer.model;
    const numbered = described && card.gallery.pictures === samples.count;
    view.showMatches(answer, numbered ? sample : undefined);
    view.showLead(answer.lead, described && card.gallery.val_leads);
    view.state(id, view.answeredBy(answer.model, took));
  } catch (error) {
    if (!isAborted(error)) view.clearMatches();
    showError(id, error, (place, words) => view.state(place, words, true));
  }
}

async function draw(parent, candidates) {
  drawing = new AbortController();
  const signal = AbortSignal.any([parent, drawing.signal]);
  const words = `Drawing ${candidates} candidates.`;
  const started = performance.now();
  const elapsed = () => Math.floor((performance.now() - started) / 1000);
  const clock = setInterval(() => view.state("elapsed", `${elapsed()} s`), 1000);
  view.showEmptyDrawings(candidates, "pending");
  view.state("draw-state", words);
  byId("cancel").hidden = false;
  byId("again").hidden = true;
  try {
    const { body, type } = brain;
    const waiting = (message) => view.state("draw-state", message || words);
    const options = { token, body, type, signal, waiting };
    const answer = await ask(`v1/reconstruct?candidates=${candidates}&pictures=webp`, options);
    const took = performance.now() - started;
    await refreshCard(answer.model, signal);
    view.showDrawings(answer);
    const chosen = `Candidate ${answer.chosen + 1} of ${answer.candidates.length} is chosen. `;
    view.state("draw-state", [chosen, ...view.answeredBy(answer.model, took)]);
  } catch (error) {
    if (parent.aborted) return;
    if (error.status === 404) return view.hideDrawings();
    view.showEmptyDrawings(candidates, "none");
    byId("again").hidden = UNFIT.includes(error.status);
    if (isAborted(error)) view.state("draw-state", "Drawing was cancelled.");
    else showError("draw-state", error, (place, message) => view.state(place, message, true));
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

/** Fetch the card again if another model answered, as after a move of the registry's alias. */
async function refreshCard(model, signal) {
  if (model === card.model) return;
  try {
    card = await ask("v1/model", { token, signal });
    view.showCard(card);
    view.showSamples(samples, card);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error; // the answer is shown even without the card
  }
}

/** Show an error in its place; a refused token locks the page. */
function showError(id, error, show) {
  if (isAborted(error)) return;
  if (!(error instanceof Refusal)) throw error;
  if (error.status === 401) lock(error);
  else show(id, error.message);
}

// --- event handlers

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
  draw(work.signal, Math.min(CANDIDATES, card.max_candidates));
  byId("cancel").focus({ preventScroll: true });
});
number.addEventListener("change", decodeField);
number.addEventListener("keydown", (event) => {
  if (event.key === "Enter") decodeField();
});
byId("samples").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
  if (event.target === number && number.value !== settledNumber) return; // the key moves the cursor
  event.preventDefault();
  goTo(Number(number.value) - 1 + step);
});
byId("choose").addEventListener("click", () => fileField.click());
fileField.addEventListener("change", async () => {
  const files = [...fileField.files];
  fileField.value = ""; // else choosing the same file again would raise no event
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

const initialToken = tokenOfAddress() || storedToken();
if (initialToken) connect(initialToken, false);
else lock();
