// Voxel files: checks before upload, and the request body made from a file.

export const LARGEST = 16 * 2 ** 20; // bytes
const MAGIC = [0x93, ...new TextEncoder().encode("NUMPY")];

/** A file that cannot be sent; the message is shown on the page. */
export class Unfit extends Error {}

/** Return the request body and content type for a file of voxels, or throw Unfit. */
export async function readVoxels(file, numVoxels) {
  const unfit = (words) => new Unfit(`${file.name}: ${words}`);
  if (file.size > LARGEST) {
    const tenths = Math.ceil((10 * file.size) / 2 ** 20);
    throw unfit(`has ${(tenths / 10).toFixed(1)} MiB; the limit is 16 MiB.`);
  }
  let bytes;
  try {
    bytes = new Uint8Array(await file.arrayBuffer());
  } catch {
    throw unfit("cannot be read.");
  }
  if (!bytes.length) throw unfit("is empty.");
  const npy = MAGIC.every((byte, place) => bytes[place] === byte);
  if (!npy && !/\.json$/i.test(file.name)) {
    throw unfit("is neither a .npy file, which starts with \\x93NUMPY, nor named .json.");
  }
  try {
    return npy ? readNpy(bytes, numVoxels) : readJson(bytes, numVoxels);
  } catch (error) {
    throw error instanceof Unfit ? unfit(error.message) : error;
  }
}

function readNpy(bytes, numVoxels) {
  const view = new DataView(bytes.buffer);
  const start = bytes[6] === 1 ? 10 : 12;
  if (bytes.length < start) throw new Unfit("ends within its header.");
  const data = start + (start === 10 ? view.getUint16(8, true) : view.getUint32(8, true));
  if (bytes.length < data) throw new Unfit("ends within its header.");
  const header = new TextDecoder("latin1").decode(bytes.subarray(start, data));
  const type = /['"]descr['"]:\s*['"]([^'"]*)['"]/.exec(header)?.[1];
  const shape = /['"]shape['"]:\s*\(([\d\s,]*)\)/.exec(header)?.[1];
  if (shape === undefined) throw new Unfit("has a header that is not NumPy’s.");
  const number = /^[<>|=][fiu](\d+)$/.exec(type ?? "");
  if (!number) throw new Unfit("holds values that are not real numbers.");
  const sizes = shape.split(",").filter((size) => size.trim()).map(Number);
  checkShape(sizes, numVoxels);
  const expected = sizes.reduce((product, size) => product * size, Number(number[1]));
  if (bytes.length - data !== expected) {
    throw new Unfit("has more or fewer bytes than its header says.");
  }
  return { body: bytes, type: "application/x-npy" };
}

function readJson(bytes, numVoxels) {
  let content;
  try {
    content = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new Unfit("is not valid JSON.");
  }
  const voxels = Array.isArray(content) ? content : content?.voxels;
  if (!Array.isArray(voxels)) throw new Unfit('has no list of numbers named "voxels".');
  const repeats = Array.isArray(voxels[0]) ? voxels : [voxels];
  if (!repeats.every((repeat) => Array.isArray(repeat) && repeat.every(Number.isFinite))) {
    throw new Unfit("holds values that are not numbers.");
  }
  if (!repeats.every((repeat) => repeat.length === repeats[0].length)) {
    throw new Unfit("has repeats of different lengths.");
  }
  checkShape([repeats.length, repeats[0].length], numVoxels);
  return { body: JSON.stringify({ voxels }), type: "application/json" };
}

function checkShape(sizes, numVoxels) {
  const whole = (count) => count.toLocaleString("en");
  if (sizes.length !== 1 && sizes.length !== 2) {
    throw new Unfit(`has ${sizes.length} axes; expected (voxels,) or (repeats, voxels).`);
  }
  if (sizes[0] === 0) throw new Unfit("holds no repeat.");
  if (sizes.at(-1) !== numVoxels) {
    throw new Unfit(`has ${whole(sizes.at(-1))} voxels; the model expects ${whole(numVoxels)}.`);
  }
}
