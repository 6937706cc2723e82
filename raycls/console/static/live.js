// What the server does now: the difference between two readings of its counts, every two seconds.
import { ask } from "./ask.js";

const PERIOD_MS = 2000;
const numbers = document.querySelector("#numbers");
let before = null;

function show(key, value, digits = 0) {
  numbers.querySelector(`[data-number=${key}]`).textContent = value === null ? "–" : value.toFixed(digits);
}

/** Return a quantile in ms, linear within a bucket, or null where nothing was answered. */
function quantile(share, now, then) {
  const past = new Map(then);
  const buckets = now.map(([bound, count]) => [bound ?? Infinity, count - (past.get(bound) ?? 0)]);
  const total = buckets.at(-1)?.[1] ?? 0;
  if (total <= 0) return null;
  let low = 0;
  let below = 0;
  for (const [bound, upto] of buckets) {
    if (upto >= share * total && upto > below) {
      return 1000 * (bound === Infinity ? low : low + ((bound - low) * (share * total - below)) / (upto - below));
    }
    [low, below] = [bound, upto];
  }
  return 1000 * low;
}

function between(now, then) {
  const seconds = now.time - then.time;
  const counted = (wanted) => Object.entries(now.answers)
    .filter(([status]) => wanted(Number(status)))
    .reduce((sum, [status, count]) => sum + Math.max(0, count - (then.answers[status] ?? 0)), 0) / seconds;
  show("rate", counted(() => true), 1);
  show("errors", counted((status) => status >= 500), 1);
  show("refused", counted((status) => status === 429), 1);
  show("p50", quantile(0.5, now.buckets, then.buckets), 1);
  show("p99", quantile(0.99, now.buckets, then.buckets), 1);
}

async function look() {
  try {
    const now = await ask("GET", "/live/numbers");
    show("replicas", now.replicas);
    show("pending", now.pending);
    if (before) between(now, before);
    before = now;
  } catch {
    before = null;
    for (const each of numbers.querySelectorAll("dd")) each.textContent = "–";
  }
}

look();
setInterval(look, PERIOD_MS);
