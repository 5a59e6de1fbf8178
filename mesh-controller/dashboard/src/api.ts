// What the controller answers, and asking it. The token comes with the address, behind `#`, which browsers send to
// nobody; it stays in this tab.

import { useEffect, useRef, useState } from 'preact/hooks';

const TOKEN = 'nodemesh-token';

export type Figures = {
  rps: number;
  failed_rps: number;
  refused_rps: number;
  p50_ms: number | null;
  p95_ms: number | null;
  p99_ms: number | null;
  cps: number;
  failed_cps: number;
  refused_cps: number;
  open: number;
  sent_bps: number;
  received_bps: number;
  mutual_tls: number;
  kernel_attested: number;
  plaintext: number;
  direct: number;
  local: number;
  tunnel: number;
  passthrough: number;
  rtt_us: number;
};

export type Graph = {
  seconds: number;
  nodes: { namespace: string; name: string; pods: number; meshed: number; services: string[] }[];
  columns: string[];
  edges: (number | null)[][];
  left_out: number;
  errors: string[];
};

export type Listed<T> = { rows: T[]; errors: string[] };

export type Workload = {
  namespace: string;
  name: string;
  pods: number;
  meshed: number;
  healthy: number;
  nodes: string[];
  identities: string[];
  revisions: string[];
  services: string[];
  seen: Figures | null;
};

export type Service = {
  namespace: string;
  hostname: string;
  addresses: string[];
  ports: string[];
  endpoints: number;
  healthy: number;
  load_balancing: string;
  seen: Figures | null;
};

export type ServicePage = Service & {
  versions: { namespace: string; workload: string; revision: string; pods: number; healthy: number; seen: Figures | null }[];
  routes: {
    route: string;
    requests: number;
    retries: number;
    mirrored: number;
    flags: Record<string, number>;
    seen: Figures | null;
  }[];
  rules: unknown;
  policies: { namespace: string; name: string; scope: string; action: string; rules: number; pods: number }[];
  clients: { namespace: string; name: string; to: string; seen: Figures | null }[];
  errors: string[];
};

export type End = { namespace: string; pod: string; workload: string; identity: string; address: string };

export type Flow = {
  node: string;
  id: string;
  start: number | null;
  end: number | null;
  direction: string;
  verdict: string;
  reason: string;
  source: End;
  destination: End;
  service: string;
  path: string;
  security: string;
  sent: number;
  received: number;
  policy: string;
  rule: number | null;
  generation: number;
  error: string;
  tls: string;
  observations: { policy: string; rule: number | null; observed_as: string; would_refuse: boolean }[];
  http: null | {
    method: string;
    path: string;
    host: string;
    status: number | null;
    version: string;
    principal: string;
    flags: string;
    request_id: string;
    route: string;
    retries: number;
    grpc_status: number | null;
    trace_id: string;
  };
};

export type Condition = { field: string; values: string[]; actual: string; holds: boolean };

export type Explanation = {
  flow: Flow | null;
  summary: string;
  policies: {
    policy: string;
    action: string;
    scope: string;
    dry_run: boolean;
    decided: boolean;
    unknown: boolean;
    rules: {
      rule: number;
      matched: boolean;
      clauses: { matched: boolean; matches: { matched: boolean; conditions: Condition[] }[] }[];
    }[];
  }[];
  nearest: null | { policy: string; rule: number; missing: Condition[] };
};

export type Certificate = {
  node: string;
  identity: string;
  serial: string;
  not_before: number | null;
  not_after: number | null;
  state: string;
};

export type Agent = {
  node: string;
  version: string;
  started: number | null;
  connected: boolean;
  from_disk: boolean;
  draining: boolean;
  telemetry_off: boolean;
  not_ready: string;
  last_nack: string;
  generation: number;
  workloads: number;
  services: number;
  policies: number;
  redirected: number;
  pending: number;
  failed: number;
  connections: number;
  tunnels: number;
  wrong: string[];
};

export type Agents = Listed<Agent> & {
  controllers: {
    version: string;
    agents: string[];
    workloads: number;
    services: number;
    policies: number;
    mesh_pods: number;
    observed_pods: number;
    missing: { node: string; pods: number; redirected: number }[];
    unjoined: string[];
    problems: string[];
  }[];
};

/** Takes the token out of the address, so that it does not stay in the history. */
export function takeToken(): void {
  const given = /^#token=([0-9a-f]{64})$/.exec(location.hash);
  if (given?.[1]) {
    sessionStorage.setItem(TOKEN, given[1]);
    history.replaceState(null, '', `${location.pathname}#/graph`);
  }
}

export class Refusal extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

export async function ask<T>(question: string, signal: AbortSignal): Promise<T> {
  const token = sessionStorage.getItem(TOKEN);
  if (!token) {
    throw new Refusal(401, 'no token');
  }
  const answer = await fetch(`./api/${question}`, {
    headers: { authorization: `Bearer ${token}` },
    cache: 'no-store',
    signal,
  });
  if (answer.ok) {
    return (await answer.json()) as T;
  }
  const text = await answer.text();
  let why = text.trim();
  try {
    why = (JSON.parse(text) as { error: string }).error;
  } catch {
    // It is plain text.
  }
  throw new Refusal(answer.status, why);
}

export type Told<T> = { data: T | null; failure: Refusal | Error | null };

/** Asks at once and again, but not while nobody sees the page. What was told stays while a later answer fails. */
export function useTold<T>(question: string, every = 5000): Told<T> {
  const [told, setTold] = useState<Told<T> & { of: string }>({ data: null, failure: null, of: question });
  const alive = useRef(0);
  useEffect(() => {
    const own = ++alive.current;
    const leaving = new AbortController();
    let timer = 0;
    const round = async () => {
      try {
        const data = await ask<T>(question, leaving.signal);
        if (alive.current === own) {
          setTold({ data, failure: null, of: question });
        }
      } catch (error) {
        if (leaving.signal.aborted) {
          return;
        }
        const failure = error instanceof Error ? error : new Error(String(error));
        setTold((before) => ({ data: before.of === question ? before.data : null, failure, of: question }));
      }
      if (!leaving.signal.aborted && every > 0) {
        timer = window.setTimeout(when, every);
      }
    };
    const when = () => {
      if (document.hidden) {
        document.addEventListener('visibilitychange', when, { once: true, signal: leaving.signal });
      } else {
        void round();
      }
    };
    void round();
    return () => {
      leaving.abort();
      window.clearTimeout(timer);
    };
  }, [question, every]);
  return told.of === question ? told : { data: null, failure: null };
}
