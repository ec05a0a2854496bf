// What is shown: takes answers of the service and writes them into the page.

import { histogram } from "./histogram.js";

const byId = (id) => document.getElementById(id);
const whole = (count) => count.toLocaleString("en");
const three = (number) => number.toFixed(3);

/** Return an element with attributes and content; text is never read as HTML. */
function element(name, attributes = {}, ...content) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content.filter((part) => part !== ""));
  return made;
}

/** Return a share (0..1) in percent, never rounded to none or all unless it is. */
export function percent(share) {
  if (share > 0 && share < 0.005) return "less than 1\u00a0%";
  if (share < 1 && share > 0.995) return "more than 99\u00a0%";
  return `${Math.round(100 * share)}\u00a0%`;
}

/** Show the page for those who have a token, or the field for it. */
export function unlock(open) {
  byId("access").hidden = open;
  byId("work").hidden = !open;
  if (!open) byId("facts").replaceChildren();
  skipTo("main", "content");
}

/** Write a sentence into one of the places for what went wrong; "" empties it. */
export function problem(id, words) {
  byId(id).textContent = words;
}

/** Show what is served. */
export function showCard(card) {
  const { gallery, val_score: score } = card;
  const fact = (...content) => element("li", {}, ...content);
  byId("facts").replaceChildren(
    fact(element("span", { class: "badge" }, card.simulated ? "simulated brain" : "recorded brain")),
    fact(`${whole(card.num_voxels)} voxels`),
    fact(`${whole(gallery.pictures)} pictures in the gallery`),
    fact("model ", element("code", {}, card.model)),
  );
  const record = {
    Version: element("code", {}, card.model),
    Brain: card.simulated ? "simulated" : "recorded",
    Voxels: whole(card.num_voxels),
    Tokens: card.tokens.join(" x "),
    Parameters: readable(card.parameters),
    Encoder: card.encoder,
    "Optimizer steps": whole(card.steps),
    "Val score, mean top-1 of both directions":
      score === null ? "not recorded" : `${(100 * score).toFixed(1)}\u00a0%`,
    "Gallery’s pictures": whole(gallery.pictures),
    "Val top-1 in the gallery": `${(100 * gallery.val_top1).toFixed(1)}\u00a0%`,
    Generator: card.generator || "none: this service draws no pictures",
    "Candidates at most": card.generator ? whole(card.max_candidates) : "0",
  };
  byId("card").replaceChildren(
    ...Object.entries(record).map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value)),
    ),
  );
  byId("notes").replaceChildren(...card.notes.map((note) => element("li", {}, note)));
}

/** Show the simulated brains that there are to choose from, if any, and what a file must hold. */
export function showSamples({ count, repeats }, card) {
  byId("samples").hidden = byId("samples-note").hidden = !count;
  byId("number").max = count;
  byId("count").textContent = whole(count);
  const trials = repeats > 1 ? `Each has ${repeats} trials, which are averaged. ` : "";
  byId("samples-note").textContent = `${trials}The keys ← and → step from brain to brain.`;
  byId("file-note").textContent =
    `or drop one anywhere: .npy or .json, ${whole(card.num_voxels)} voxels, z-scored, at most 16 MiB`;
}

/** Empty the result for a new brain: places for what is to come. */
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
  place("seen-picture", "pending");
  placesForDrawings(candidates, "pending");
  byId("matches").replaceChildren(...places(matches, "pending"));
}

/** Show empty places for pictures that are to be drawn (pending), or are not (none). */
export function placesForDrawings(candidates, look) {
  place("lowlevel-picture", look);
  byId("candidates").replaceChildren(...places(candidates, look));
}

/** Leave nothing that looks as if it were still to come. */
export function giveUp(candidates) {
  placesForDrawings(candidates, "none");
  clearMatches();
  if (byId("seen-picture").matches(".pending")) showSeen("");
}

export function clearMatches() {
  byId("matches").replaceChildren();
}

/** Hide what only a generator fills. */
export function hideDrawings() {
  byId("pictures-title").textContent = "Seen";
  byId("lowlevel").hidden = byId("drawings").hidden = true;
  byId("draw-state").parentElement.hidden = true;
  byId("pictures").hidden = byId("seen").hidden;
}

/** Show the picture that was seen, by its address; "" where it could not be had. */
export function showSeen(address, number) {
  const alt = `Seen picture, of brain ${number + 1}`;
  byId("seen-picture").className = address ? "thumb" : "thumb none";
  byId("seen-picture").replaceChildren(address ? picture(address, alt) : "not available");
}

/** Show the pictures that were drawn. */
export function showDrawings({ candidates, chosen, lowlevel }) {
  byId("lowlevel").hidden = !lowlevel;
  byId("lowlevel-picture").className = "thumb";
  byId("lowlevel-picture").replaceChildren(picture(lowlevel, "Blurry picture read from the brain"));
  byId("candidates").replaceChildren(
    ...candidates.map((candidate, number) => {
      const alt = `Drawn candidate ${number + 1}${number === chosen ? ", the chosen one" : ""}`;
      return tile(candidate, alt, number === chosen && ["chosen", "chosen"]);
    }),
  );
}

/** Show the nearest pictures; `seen` is the number of the right one, undefined if not known. */
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

/** Say how much the lead means; without the histogram of the model that answered, no drawing. */
export function showLead(lead, leads) {
  byId("certainty").hidden = false;
  byId("lead").textContent =
    `The best picture is ${three(lead.value)} ahead of the second. ` +
    `${sentence(percent(lead.val_smaller))} of the val split’s leads are smaller; of val brains ` +
    `with a lead like this, ${percent(lead.val_right)} had the right picture first.`;
  byId("histogram").parentElement.hidden = !leads;
  byId("histogram").replaceChildren(...(leads ? [histogram(leads, lead.value)] : []));
}

/** Write the state of a request: a sentence and whether it says that something failed. */
export function state(id, words, failed = false) {
  byId(id).replaceChildren(...[words].flat());
  byId(id).classList.toggle("failed", failed);
}

/** Return the words that name the model of an answer. */
export function answeredBy(model, milliseconds) {
  const seconds = (milliseconds / 1000).toFixed(1);
  return ["Answered by ", element("code", {}, model), ` in ${seconds} s.`];
}

function skipTo(id, name) {
  byId("skip").setAttribute("href", `#${id}`);
  byId("skip").textContent = `Skip to the ${name}`;
}

function sentence(words) {
  return words[0].toUpperCase() + words.slice(1);
}

function readable(count) {
  const millions = count / 1e6;
  if (millions >= 1000) return `${(millions / 1000).toFixed(2)} billion`;
  return millions >= 1 ? `${millions.toFixed(millions < 100 ? 1 : 0)} million` : whole(count);
}

/** Return an image; the service sends pictures as data: URLs, and nothing else is loaded. */
function picture(address, alt) {
  const image = element("img", { alt, width: 160, height: 160 });
  if (/^(data:image\/|blob:)/.test(address)) image.src = address;
  return image;
}

/** Return a list item: a picture with its similarity, and the mark it has, if any. */
function tile({ picture: address, similarity }, alt, mark) {
  const thumb = element("div", { class: "thumb" }, picture(address, alt));
  const number = element("span", { class: "similarity" }, three(similarity));
  if (!mark) return element("li", {}, thumb, number);
  const [look, word] = mark;
  return element("li", { class: look }, thumb, number, element("b", {}, word));
}

function place(id, look) {
  byId(id).className = `thumb ${look}`;
  byId(id).replaceChildren(look === "none" ? "not drawn" : "");
}

function places(count, look) {
  return Array.from({ length: count }, () =>
    element("li", {}, element("div", { class: `thumb ${look}` }), element("span", {}, "\u00a0")),
  );
}
