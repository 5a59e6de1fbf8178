// Places the graph's nodes, off the page's own thread: clients left, servers right. Whoever had a place keeps it nearly.

import { type SimulationNodeDatum, forceCollide, forceLink, forceManyBody, forceSimulation, forceX, forceY } from 'd3-force';

export type Task = { number: number; ids: string[]; edges: [number, number][] };
export type Places = { number: number; xy: Float32Array; done: boolean };

type Body = SimulationNodeDatum & { id: string };

const RANK = 190;
const TICKS = 260;
/** A first look soon, then the rest. */
const SLICE_MS = 60;
/** Spring lengths are no use among so many edges: ranks and repulsion alone place large graphs. */
const MANY = 4000;

const kept = new Map<string, { x: number; y: number }>();
let current = 0;

/** How far from a client that nobody calls; circles are cut where they are first met again. */
function ranks(count: number, edges: [number, number][]): Int16Array {
  const out: number[][] = Array.from({ length: count }, () => []);
  const entering = new Int32Array(count);
  for (const [source, destination] of edges) {
    if (source !== destination) {
      out[source]?.push(destination);
      entering[destination] = (entering[destination] ?? 0) + 1;
    }
  }
  const rank = new Int16Array(count).fill(-1);
  const order = Array.from({ length: count }, (_, at) => at).sort((a, b) => (entering[a] ?? 0) - (entering[b] ?? 0));
  for (const start of order) {
    if (rank[start] !== -1) {
      continue;
    }
    rank[start] = 0;
    let line = [start];
    while (line.length > 0) {
      const next: number[] = [];
      for (const at of line) {
        for (const to of out[at] ?? []) {
          if (rank[to] === -1) {
            rank[to] = Math.min((rank[at] ?? 0) + 1, 7);
            next.push(to);
          }
        }
      }
      line = next;
    }
  }
  return rank;
}

/** From the name alone, so that the same mesh looks the same each time. */
function chance(id: string): number {
  let hash = 2166136261;
  for (let at = 0; at < id.length; at++) {
    hash = Math.imul(hash ^ id.charCodeAt(at), 16777619);
  }
  return (hash >>> 0) / 2 ** 32;
}

function place(task: Task): void {
  const { number, ids, edges } = task;
  const rank = ranks(ids.length, edges);
  let known = 0;
  const tall = Math.max(200, Math.sqrt(ids.length) * 130);
  const bodies: Body[] = ids.map((id, at) => {
    const before = kept.get(id);
    known += before ? 1 : 0;
    return { id, x: before?.x ?? (rank[at] ?? 0) * RANK, y: before?.y ?? (chance(id) - 0.5) * tall };
  });
  const links = edges.filter(([source, destination]) => source !== destination);
  // A namespace as a whole ends in `/`; it is larger, and speaks to nearly all others.
  const wide = (body: Body) => (body.id.endsWith('/') ? 78 : 38);
  const simulation = forceSimulation(bodies)
    .force('rank', forceX<Body>((_, at) => (rank[at] ?? 0) * RANK).strength(known > 0 ? 0.25 : 0.5))
    .force('middle', forceY<Body>(0).strength(0.04))
    .force('apart', forceManyBody<Body>().strength((body) => -11 * wide(body)).distanceMax(700))
    .force('collide', forceCollide<Body>(wide))
    .alpha(known * 2 > ids.length ? 0.25 : 1)
    .alphaDecay(1 - 0.001 ** (1 / TICKS))
    .stop();
  if (links.length <= MANY) {
    const ends = new Int32Array(ids.length);
    for (const end of links.flat()) {
      ends[end] = (ends[end] ?? 0) + 1;
    }
    const spring = (_: unknown, at: number) => {
      const [source, target] = links[at] ?? [0, 0];
      return 0.25 / Math.max(2, Math.min(ends[source] ?? 1, ends[target] ?? 1));
    };
    const springs = links.map(([source, target]) => ({ source, target }));
    simulation.force('link', forceLink<Body, { source: number; target: number }>(springs).distance(170).strength(spring));
  }
  const tell = (done: boolean) => {
    const xy = new Float32Array(ids.length * 2);
    bodies.forEach((body, at) => {
      xy[at * 2] = body.x ?? 0;
      xy[at * 2 + 1] = body.y ?? 0;
    });
    postMessage({ number, xy, done } satisfies Places, { transfer: [xy.buffer] });
  };
  const slice = () => {
    // A newer graph has come meanwhile.
    if (number !== current) {
      return;
    }
    const begin = performance.now();
    while (simulation.alpha() > 0.002 && performance.now() - begin < SLICE_MS) {
      simulation.tick();
    }
    const done = simulation.alpha() <= 0.002;
    if (done) {
      bodies.forEach((body) => kept.set(body.id, { x: body.x ?? 0, y: body.y ?? 0 }));
    }
    // Small ones are shown when they are done: nothing flutters.
    if (done || ids.length > 120) {
      tell(done);
    }
    if (!done) {
      setTimeout(slice, 0);
    }
  };
  slice();
}

addEventListener('message', (event: MessageEvent<Task>) => {
  current = event.data.number;
  place(event.data);
});
