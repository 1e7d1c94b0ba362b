// Data blocks: base64 of deflated JSON in script elements that do not run. Chunks of episodes are decoded on demand,
// and the last few are kept.

const KEPT_CHUNKS = 24;

async function unpack(id) {
  const block = await findBlock(id);
  const binary = atob(block.textContent);
  const bytes = new Uint8Array(binary.length);
  for (let k = 0; k < binary.length; k++) bytes[k] = binary.charCodeAt(k);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

// The script starts before the browser has read the whole file.
async function findBlock(id) {
  if (document.readyState === "loading" && !(document.getElementById(id) || {}).nextElementSibling) {
    await new Promise((resolve) => document.addEventListener("DOMContentLoaded", resolve, { once: true }));
  }
  return document.getElementById(id);
}

class Store {
  constructor(index) {
    this.index = index;
    this.episodes = index.episodes;
    this.problems = index.problems;
    this.size = index.episodes.run.length;
    this.chunks = new Map();
    this.blocks = new Map();
    this.starts = [0];
    for (const size of index.chunks) this.starts.push(this.starts[this.starts.length - 1] + size);
    this.byProblem = this.problems.id.map(() => []);
    for (let e = 0; e < this.size; e++) this.byProblem[this.episodes.problem[e]].push(e);
  }

  // A block that is decoded once.
  block(id) {
    if (!this.blocks.has(id)) this.blocks.set(id, unpack(id));
    return this.blocks.get(id);
  }

  async episode(e) {
    let k = 0;
    let end = this.starts.length - 1;
    while (end - k > 1) {
      const middle = (k + end) >> 1;
      if (this.starts[middle] <= e) k = middle;
      else end = middle;
    }
    const found = this.chunks.get(k) || unpack(`chunk-${k}`);
    this.chunks.delete(k);
    this.chunks.set(k, found);
    if (this.chunks.size > KEPT_CHUNKS) this.chunks.delete(this.chunks.keys().next().value);
    return (await found)[e - this.starts[k]];
  }

  vocabulary(e) {
    return this.block(`vocabulary-${this.episodes.run[e]}`);
  }

  outcome(e) {
    return this.index.outcomes[this.episodes.outcome[e]];
  }

  failed(e) {
    return this.index.failed[this.episodes.outcome[e]];
  }

  statusNames(e) {
    return this.index.statuses.filter((_, k) => (this.episodes.statuses[e] >> k) & 1);
  }

  question(e) {
    return this.problems.question[this.episodes.problem[e]];
  }

  // Share of right answers and mean reward of a problem's scored episodes in one run; null without any.
  average(problem, run) {
    const scored = this.byProblem[problem].filter((e) => this.episodes.run[e] === run && !this.failed(e));
    if (!scored.length) return null;
    const rewards = scored.map((e) => this.episodes.reward[e]).filter((value) => value !== null);
    const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
    return {
      num: scored.length,
      right: mean(scored.map((e) => Math.max(this.episodes.verdict[e], 0))),
      reward: rewards.length ? mean(rewards) : null,
    };
  }
}
