// The lines that two texts have in common, for a view of both side by side.

const MOST = 1500; // lines of a text up to which they are compared; the work is their product

/** `[left, right]`: the lines of both texts, each `{ text, same }`. An empty text has none. */
export function compareLines(before, after) {
  const [left, right] = [before, after].map((text) => (text ? text.split("\n") : []));
  const [kept, held] = left.length > MOST || right.length > MOST ? [new Set(), new Set()] : common(left, right);
  return [left.map((text, n) => ({ text, same: kept.has(n) })), right.map((text, n) => ({ text, same: held.has(n) }))];
}

/** The numbers of the lines of a longest common subsequence, in the one and in the other text. */
function common(left, right) {
  const width = right.length + 1;
  const length = new Uint16Array((left.length + 1) * width);
  for (let i = left.length - 1; i >= 0; i -= 1) {
    for (let j = right.length - 1; j >= 0; j -= 1) {
      const here = i * width + j;
      length[here] = left[i] === right[j] ? length[here + width + 1] + 1 : Math.max(length[here + width], length[here + 1]);
    }
  }
  const found = [new Set(), new Set()];
  for (let i = 0, j = 0; i < left.length && j < right.length; ) {
    if (left[i] === right[j]) {
      found[0].add(i);
      found[1].add(j);
      i += 1;
      j += 1;
    } else if (length[(i + 1) * width + j] >= length[i * width + j + 1]) i += 1;
    else j += 1;
  }
  return found;
}
