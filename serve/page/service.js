// Calls to the service: token header, refusals as messages, retries while it is busy.

const MAX_RETRIES = 5;
const MAX_WAIT = 60; // seconds
const BUSY = [429, 503];

const WORDS = {
  0: "The service cannot be reached.",
  401: "The service does not know this token.",
  429: "The service is busy.",
  503: "The service is busy or still starting.",
  504: "The service took too long to answer.",
};

/** A refusal by the service, or no connection (status 0). */
export class Refusal extends Error {
  constructor(status, reason = "", request = "") {
    const stop = /[.!?]$/.test(reason) ? "" : ".";
    const detail = reason && reason[0].toUpperCase() + reason.slice(1) + stop;
    const words = WORDS[status] ?? (detail ? "" : `The service answered with status ${status}.`);
    const parts = status === 401 ? [words] : [words, detail, request && `(request ${request})`];
    super(parts.filter(Boolean).join(" "));
    this.status = status;
  }
}

/** Return whether an error is only the abort of a request. */
export function isAborted(error) {
  return error.name === "AbortError";
}

/** Wait; aborting the signal ends the wait with an AbortError. */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/**
 * Return the service's response; throw a Refusal if it is an error.
 *
 * `waiting` gets a sentence before each wait for a busy service, and "" when it is called again.
 */
export async function call(path, { token, body, type, signal, waiting = () => {} }) {
  const headers = { Authorization: `Bearer ${token}`, ...(type && { "Content-Type": type }) };
  const request = { method: body ? "POST" : "GET", headers, body, signal };
  for (let attempt = 1; ; attempt++) {
    const response = await send(path, request);
    if (response.ok) return response;
    const refusal = await refused(response);
    if (!BUSY.includes(response.status) || attempt > MAX_RETRIES) throw refusal;
    const seconds = retryAfter(response.headers.get("Retry-After"));
    const retry = `Trying again in ${seconds} s (${attempt} of ${MAX_RETRIES}).`;
    waiting(`${WORDS[response.status]} ${retry}`);
    await pause(1000 * seconds, signal);
    waiting("");
  }
}

/** Return the JSON of an answer. */
export async function ask(path, options) {
  return read(await call(path, options), (response) => response.json());
}

/** Return `take(response)`; throw a Refusal if the answer breaks off. */
export async function read(response, take) {
  try {
    return await take(response);
  } catch (error) {
    throw isAborted(error) ? error : new Refusal(0, "The answer broke off.");
  }
}

async function send(path, request) {
  try {
    return await fetch(path, { ...request, cache: "no-store", credentials: "omit", redirect: "error" });
  } catch (error) {
    throw isAborted(error) ? error : new Refusal(0);
  }
}

async function refused(response) {
  try {
    const problem = await response.json();
    return new Refusal(response.status, problem.error, problem.request_id);
  } catch (error) {
    if (isAborted(error)) throw error;
    return new Refusal(response.status);
  }
}

function retryAfter(header) {
  const seconds = Number(header ?? "") || (Date.parse(header) - Date.now()) / 1000 || 1;
  return Math.min(Math.max(Math.ceil(seconds), 1), MAX_WAIT);
}
