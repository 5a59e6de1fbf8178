// What of the graph is drawn: everything while it is small, otherwise namespaces as one node each until somebody opens
// them. Pure.

import type { Figures, Graph } from '../api';

/** Above, namespaces are closed at first. */
export const MOST_OPEN = 150;

export type Node = {
  id: string;
  namespace: string;
  /** Empty: a namespace as a whole. */
  name: string;
  workloads: number;
  pods: number;
  meshed: number;
  services: string[];
  /** What comes to it. */
  taken: Figures;
};

export type Edge = { source: number; destination: number; seen: Figures };

export type View = {
  nodes: Node[];
  edges: Edge[];
  /** Namespaces that could be opened, and were not. */
  closed: string[];
  grouped: boolean;
};

const LATENCIES = ['p50_ms', 'p95_ms', 'p99_ms', 'rtt_us'] as const;

const NOTHING: Figures = {
  rps: 0,
  failed_rps: 0,
  refused_rps: 0,
  p50_ms: null,
  p95_ms: null,
  p99_ms: null,
  cps: 0,
  failed_cps: 0,
  refused_cps: 0,
  open: 0,
  sent_bps: 0,
  received_bps: 0,
  mutual_tls: 0,
  kernel_attested: 0,
  plaintext: 0,
  direct: 0,
  local: 0,
  tunnel: 0,
  passthrough: 0,
  rtt_us: 0,
};

/** Counts and rates add up; of latencies the worst stays, since quantiles do not. */
function add(sum: Figures, more: Figures): void {
  const into = sum as Record<string, number | null>;
  for (const [name, value] of Object.entries(more)) {
    const before = into[name] ?? null;
    if ((LATENCIES as readonly string[]).includes(name)) {
      into[name] = value === null ? before : Math.max(before ?? 0, value);
    } else {
      into[name] = (before ?? 0) + (value ?? 0);
    }
  }
}

function figures(columns: string[], row: (number | null)[]): Figures {
  const seen: Record<string, number | null> = {};
  for (let at = 2; at < columns.length; at++) {
    seen[columns[at] as string] = row[at] ?? null;
  }
  return seen as unknown as Figures;
}

export function view(graph: Graph, namespace: string, open: ReadonlySet<string>): View {
  const { nodes, edges, columns } = graph;
  const wanted = new Uint8Array(nodes.length);
  if (namespace === '') {
    wanted.fill(1);
  } else {
    nodes.forEach((node, at) => {
      wanted[at] = node.namespace === namespace ? 1 : 0;
    });
    // With whom it speaks, too.
    const own = wanted.slice();
    for (const [source, destination] of edges as [number, number][]) {
      if (own[source] || own[destination]) {
        wanted[source] = 1;
        wanted[destination] = 1;
      }
    }
  }
  const grouped = wanted.reduce((sum, one) => sum + one, 0) > MOST_OPEN;
  const isOpen = (name: string) => !grouped || name === '' || name === namespace || open.has(name);
  const shown: Node[] = [];
  const places = new Map<string, number>();
  const place = new Int32Array(nodes.length).fill(-1);
  nodes.forEach((node, at) => {
    if (!wanted[at]) {
      return;
    }
    const name = isOpen(node.namespace) ? node.name : '';
    const id = name === '' ? `${node.namespace}/` : `${node.namespace}/${name}`;
    let to = places.get(id);
    if (to === undefined) {
      to = shown.length;
      places.set(id, to);
      shown.push({
        id,
        namespace: node.namespace,
        name,
        workloads: 0,
        pods: 0,
        meshed: 0,
        services: [],
        taken: { ...NOTHING },
      });
    }
    const target = shown[to] as Node;
    target.workloads += 1;
    target.pods += node.pods;
    target.meshed += node.meshed;
    if (name !== '') {
      target.services = node.services;
    }
    place[at] = to;
  });
  const sums = new Map<number, Edge>();
  for (const row of edges) {
    const [from, to] = row as [number, number];
    const [source, destination] = [place[from] ?? -1, place[to] ?? -1];
    if (source < 0 || destination < 0) {
      continue;
    }
    // Of a filtered namespace's neighbours, what they say to each other is another graph.
    if (namespace !== '' && nodes[from]?.namespace !== namespace && nodes[to]?.namespace !== namespace) {
      continue;
    }
    const seen = figures(columns, row);
    add((shown[destination] as Node).taken, seen);
    const key = source * shown.length + destination;
    const known = sums.get(key);
    if (known) {
      add(known.seen, seen);
    } else {
      sums.set(key, { source, destination, seen: { ...seen } });
    }
  }
  const closed = grouped ? [...new Set(shown.filter((node) => node.name === '').map((node) => node.namespace))] : [];
  return { nodes: shown, edges: [...sums.values()], closed, grouped };
}

/** What fails, of all: requests, or connections where nobody reads requests. */
export function trouble(seen: Figures): number {
  return seen.rps > 0
    ? (seen.failed_rps + seen.refused_rps) / seen.rps
    : seen.cps > 0
      ? (seen.failed_cps + seen.refused_cps) / seen.cps
      : 0;
}

export function secured(seen: Figures): 'mtls' | 'attested' | 'plaintext' {
  if (seen.plaintext > 0) {
    return 'plaintext';
  }
  return seen.mutual_tls >= seen.kernel_attested ? 'mtls' : 'attested';
}
