// View: writes the service's answers into the page.

import { histogram } from "./histogram.js";

const byId = (id) => document.getElementById(id);
const formatCount = (count) => count.toLocaleString("en");
const formatCosine = (number) => number.toFixed(3);

/** Return an element with attributes and content; text is never read as HTML. */
function element(name, attributes = {}, ...content) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...content.filter((part) => part !== ""));
  return node;
}

/** Return a share (0..1) in percent; only exact 0 and 1 are shown as 0 % and 100 %. */
export function formatShare(share) {
  if (share > 0 && share < 0.005) return "less than 1\u00a0%";
  if (share < 1 && share > 0.995) return "more than 99\u00a0%";
  return `${Math.round(100 * share)}\u00a0%`;
}

/** Show the page if the token is accepted (`open`), else the field for the token. */
export function unlock(open) {
  byId("access").hidden = open;
  byId("work").hidden = !open;
  if (!open) byId("facts").replaceChildren();
  skipTo("main", "content");
}

/** Show an error message in its place; "" clears it. */
export function problem(id, words) {
  byId(id).textContent = words;
}

/** Show the model card. */
export function showCard(card) {
  const { gallery, val_score: score } = card;
  const fact = (...content) => element("li", {}, ...content);
  byId("facts").replaceChildren(
    fact(element("span", { class: "badge" }, card.simulated ? "simulated brain" : "recorded brain")),
    fact(`${formatCount(card.num_voxels)} voxels`),
    fact(`${formatCount(gallery.pictures)} pictures in the gallery`),
    fact("model ", element("code", {}, card.model)),
  );
  const record = {
    Version: element("code", {}, card.model),
    Brain: card.simulated ? "simulated" : "recorded",
    Voxels: formatCount(card.num_voxels),
    Tokens: card.tokens.join(" x "),
    Parameters: formatMillions(card.parameters),
    Encoder: card.encoder,
    "Optimizer steps": formatCount(card.steps),
    "Val score, mean top-1 of both directions":
      score === null ? "not recorded" : `${(100 * score).toFixed(1)}\u00a0%`,
    "Gallery pictures": formatCount(gallery.pictures),
    "Val top-1 in the gallery": `${(100 * gallery.val_top1).toFixed(1)}\u00a0%`,
    Generator: card.generator || "none: this service draws no pictures",
    "Maximum candidates": card.generator ? formatCount(card.max_candidates) : "0",
  };
  byId("card").replaceChildren(
    ...Object.entries(record).map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value)),
    ),
  );
  byId("notes").replaceChildren(...card.notes.map((note) => element("li", {}, note)));
}

/** Show the choice of simulated brains, if there are any, and the format of a voxel file. */
export function showSamples({ count, repeats }, card) {
  byId("samples").hidden = byId("samples-note").hidden = !count;
  byId("number").max = count;
  byId("count").textContent = formatCount(count);
  const averaged = repeats > 1 ? `Each has ${repeats} repeats, which are averaged. ` : "";
  byId("samples-note").textContent = `${averaged}The keys ← and → step from brain to brain.`;
  byId("file-note").textContent =
    `or drop one anywhere: .npy or .json, ${formatCount(card.num_voxels)} voxels, z-scored, at most 16 MiB`;
}

/** Clear the result for a new brain, with places for the answers to come. */
export function begin({ title, sample, candidates, matches }) {
  byId("result").hidden = false;
  skipTo("result-title", "result");
  byId("result-title").textContent = title;
  byId("pictures").hidden = sample === undefined && !candidates;
  byId("pictures-title").textContent =
    sample === undefined ? "Drawn" : candidates ? "Seen and drawn" : "Seen";
  byId("seen").hidden = sample === undefined;
  byId("lowlevel").hidden = byId("drawings").hidden = !candidates;
  byId("draw-state").parentElement.hidden = !candidates;
  byId("certainty").hidden = byId("cancel").hidden = byId("again").hidden = true;
  for (const id of ["result-problem", "place", "draw-state", "retrieve-state", "elapsed"]) {
    state(id, "");
  }
  showThumb("seen-picture", "pending");
  showEmptyDrawings(candidates, "pending");
  byId("matches").replaceChildren(...emptyTiles(matches, "pending"));
}

/** Show empty places for drawn pictures: `look` is "pending" or "none". */
export function showEmptyDrawings(candidates, look) {
  showThumb("lowlevel-picture", look);
  byId("candidates").replaceChildren(...emptyTiles(candidates, look));
}

/** Replace every pending place after a failure. */
export function showFailure(candidates) {
  showEmptyDrawings(candidates, "none");
  clearMatches();
  if (byId("seen-picture").matches(".pending")) showSeen("");
}

export function clearMatches() {
  byId("matches").replaceChildren();
}

/** Hide the places for drawn pictures: the service has no generator. */
export function hideDrawings() {
  byId("pictures-title").textContent = "Seen";
  byId("lowlevel").hidden = byId("drawings").hidden = true;
  byId("draw-state").parentElement.hidden = true;
  byId("pictures").hidden = byId("seen").hidden;
}

/** Show the seen picture by its address; "" if it could not be fetched. */
export function showSeen(address, number) {
  const alt = `Seen picture, of brain ${number + 1}`;
  byId("seen-picture").className = address ? "thumb" : "thumb none";
  byId("seen-picture").replaceChildren(address ? picture(address, alt) : "not available");
}

/** Show the drawn pictures. */
export function showDrawings({ candidates, chosen, lowlevel }) {
  byId("lowlevel").hidden = !lowlevel;
  byId("lowlevel-picture").className = "thumb";
  byId("lowlevel-picture").replaceChildren(picture(lowlevel, "Blurry picture predicted from the brain"));
  byId("candidates").replaceChildren(
    ...candidates.map((candidate, number) => {
      const alt = `Drawn candidate ${number + 1}${number === chosen ? ", the chosen one" : ""}`;
      return tile(candidate, alt, number === chosen && ["chosen", "chosen"]);
    }),
  );
}

/** Show the nearest pictures; `seen` is the seen picture's number, undefined if unknown. */
export function showMatches({ matches }, seen) {
  byId("matches").replaceChildren(
    ...matches.map((match, rank) => {
      const right = match.number === seen;
      const alt = `Gallery picture ${match.number + 1}, place ${rank + 1}${right ? ", the seen one" : ""}`;
      return tile(match, alt, right && ["true", "seen"]);
    }),
  );
  const rank = matches.findIndex(({ number }) => number === seen);
  const words = rank < 0
    ? [`The seen picture is not among these ${matches.length}.`]
    : [element("b", {}, rank ? "Seen picture" : "Right:"), rank ? ` at place ${rank + 1}.` : " the seen picture is first."];
  byId("place").replaceChildren(...(seen === undefined ? [] : words));
}

/** Show the lead, and the histogram if `leads` belongs to the model that answered. */
export function showLead(lead, leads) {
  byId("certainty").hidden = false;
  byId("lead").textContent =
    `The best picture is ${formatCosine(lead.value)} ahead of the second. ` +
    `${capitalize(formatShare(lead.val_smaller))} of the val split’s leads are smaller; of val brains ` +
    `with a lead like this, ${formatShare(lead.val_right)} had the right picture first.`;
  byId("histogram").parentElement.hidden = !leads;
  byId("histogram").replaceChildren(...(leads ? [histogram(leads, lead.value)] : []));
}

/** Show the state of a request in a sentence; `failed` marks an error. */
export function state(id, words, failed = false) {
  byId(id).replaceChildren(...[words].flat());
  byId(id).classList.toggle("failed", failed);
}

/** Return a sentence on the model and the time of an answer. */
export function answeredBy(model, milliseconds) {
  const seconds = (milliseconds / 1000).toFixed(1);
  return ["Answered by ", element("code", {}, model), ` in ${seconds} s.`];
}

function skipTo(id, name) {
  byId("skip").setAttribute("href", `#${id}`);
  byId("skip").textContent = `Skip to the ${name}`;
}

function capitalize(words) {
  return words[0].toUpperCase() + words.slice(1);
}

function formatMillions(count) {
  const millions = count / 1e6;
  if (millions >= 1000) return `${(millions / 1000).toFixed(2)} billion`;
  return millions >= 1 ? `${millions.toFixed(millions < 100 ? 1 : 0)} million` : formatCount(count);
}

/** Return an image; only data: and blob: addresses are loaded. */
function picture(address, alt) {
  const image = element("img", { alt, width: 160, height: 160 });
  if (/^(data:image\/|blob:)/.test(address)) image.src = address;
  return image;
}

/** Return a list item: a picture with its similarity, and its mark [class, word], if any. */
function tile({ picture: address, similarity }, alt, mark) {
  const thumb = element("div", { class: "thumb" }, picture(address, alt));
  const number = element("span", { class: "similarity" }, formatCosine(similarity));
  if (!mark) return element("li", {}, thumb, number);
  const [look, word] = mark;
  return element("li", { class: look }, thumb, number, element("b", {}, word));
}

function showThumb(id, look) {
  byId(id).className = `thumb ${look}`;
  byId(id).replaceChildren(look === "none" ? "not drawn" : "");
}

function emptyTiles(count, look) {
  return Array.from({ length: count }, () =>
    element("li", {}, element("div", { class: `thumb ${look}` }), element("span", {}, "\u00a0")),
  );
}
