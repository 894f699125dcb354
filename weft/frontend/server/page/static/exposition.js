// What /metrics says, as numbers: samples by name, differences of two looks, percentiles of histograms.

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Map from a name to its samples, each [labels, value]. */
export function parsed(text, wanted) {
  const found = new Map();
  for (const line of text.split("\n")) {
    if (line === "" || line[0] === "#") continue;
    const match = SAMPLE.exec(line);
    if (match === null || !wanted(match[1])) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(LABEL)) labels[name] = value;
    if (!found.has(match[1])) found.set(match[1], []);
    found.get(match[1]).push([labels, Number(match[3])]);
  }
  return found;
}

/** The sum of a name's samples. */
export function total(samples, name) {
  return (samples.get(name) ?? []).reduce((sum, [, value]) => sum + value, 0);
}

/** Counts of a histogram's buckets over all series, as [upper bound, cumulative count], ascending. */
export function buckets(samples, name) {
  const sums = new Map();
  for (const [labels, value] of samples.get(`${name}_bucket`) ?? []) {
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    sums.set(bound, (sums.get(bound) ?? 0) + value);
  }
  return [...sums].sort((one, other) => one[0] - other[0]);
}

/** Buckets of what came between two looks; of all that ever came where nothing did. */
export function between(now, before) {
  const earlier = new Map(before);
  const made = now.map(([bound, value]) => [bound, value - (earlier.get(bound) ?? 0)]);
  return made.length > 0 && made[made.length - 1][1] > 0 ? made : now;
}

/** A quantile, linear inside its bucket; NaN where nothing was counted. */
export function quantile(counts, share) {
  const all = counts.length ? counts[counts.length - 1][1] : 0;
  if (!(all > 0)) return NaN;
  const wanted = share * all;
  let [lower, below] = [0, 0];
  for (const [bound, value] of counts) {
    if (value >= wanted) {
      if (bound === Infinity) return lower;
      return value === below ? bound : lower + ((bound - lower) * (wanted - below)) / (value - below);
    }
    [lower, below] = [bound, value];
  }
  return lower;
}
