// The graph and what is chosen in it. Everything in the picture is in the list beside it too, for keyboards and readers
// of the screen.

import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { type Graph, useTold } from '../api';
import { serviceLink } from '../pages/services';
import { Asked, Badge, Namespaces, Search, secured as securedShare, success } from '../pieces';
import { bytes, milliseconds, rate, service as short } from '../words';
import { type Camera, colours, draw, radius } from './draw';
import type { Places, Task } from './layout';
import { type Node, type View, view as viewOf } from './model';

/** Entries of the list; the search finds the others. */
const LISTED = 200;

export function GraphPage() {
  const told = useTold<Graph>('graph');
  const [namespace, setNamespace] = useState('');
  const [text, setText] = useState('');
  const [open, setOpen] = useState<ReadonlySet<string>>(new Set());
  const [chosen, setChosen] = useState('');
  return (
    <Asked told={told}>
      {(graph) => (
        <GraphOf
          graph={graph}
          {...{ namespace, setNamespace, text, setText, open, setOpen, chosen, setChosen }}
        />
      )}
    </Asked>
  );
}

function GraphOf(props: {
  graph: Graph;
  namespace: string;
  setNamespace: (name: string) => void;
  text: string;
  setText: (text: string) => void;
  open: ReadonlySet<string>;
  setOpen: (open: ReadonlySet<string>) => void;
  chosen: string;
  setChosen: (id: string) => void;
}) {
  const { graph, namespace, text, open, chosen, setChosen, setOpen } = props;
  const view = useMemo(() => viewOf(graph, namespace, open), [graph, namespace, open]);
  const wanted = text.trim().toLowerCase();
  // Workloads of closed namespaces are found too: choosing one opens its namespace.
  const hidden = useMemo(
    () =>
      wanted === '' || !view.grouped
        ? []
        : graph.nodes.filter(
            (node) => view.closed.includes(node.namespace) && `${node.namespace}/${node.name}`.toLowerCase().includes(wanted),
          ),
    [graph, view, wanted],
  );
  const found = useMemo(
    () => (wanted === '' ? null : new Set(view.nodes.flatMap((node, at) => (node.id.toLowerCase().includes(wanted) ? [at] : [])))),
    [view, wanted],
  );
  const at = view.nodes.findIndex((node) => node.id === chosen);
  const requests = graph.edges.reduce((sum, edge) => sum + (edge[2] ?? 0), 0);
  const openOne = (name: string) => setOpen(new Set([...open, name]));
  const closeOne = (name: string) => setOpen(new Set([...open].filter((other) => other !== name)));
  return (
    <>
      <div class="bar">
        <h1>Graph</h1>
        <Search label="Find a workload" value={text} onInput={props.setText} />
        <Namespaces all={graph.nodes.map((node) => node.namespace)} value={namespace} onChange={props.setNamespace} />
        <span class="dim" id="summary">
          {graph.nodes.length.toLocaleString('en')} workloads, {graph.edges.length.toLocaleString('en')} edges,{' '}
          {rate(requests)} requests/s over {graph.seconds || 60} s
          {graph.left_out > 0 && `; ${graph.left_out} quieter edges are left out`}
        </span>
        <Legend />
      </div>
      {graph.nodes.length === 0 ? (
        <div class="empty">
          Nobody is in the mesh yet. Put the label <code>nodemesh.io/mode: mesh</code> on a namespace: its pods join
          without a restart, and appear here.
        </div>
      ) : (
        <div class="graph">
          <Picture view={view} chosen={at} found={found} choose={setChosen} open={openOne} />
          <aside aria-label="What is chosen">
            {at >= 0 ? (
              <Chosen view={view} at={at} choose={setChosen} open={openOne} close={view.grouped ? closeOne : undefined} />
            ) : (
              <List view={view} found={found} choose={setChosen} />
            )}
            {at < 0 && hidden.length > 0 && (
              <>
                <h2>In closed namespaces</h2>
                <ul class="nodes">
                  {hidden.slice(0, LISTED).map((node) => (
                    <li key={`${node.namespace}/${node.name}`}>
                      <button
                        type="button"
                        data-node={`${node.namespace}/${node.name}`}
                        onClick={() => {
                          openOne(node.namespace);
                          setChosen(`${node.namespace}/${node.name}`);
                        }}
                      >
                        {node.namespace}/{node.name}
                      </button>
                    </li>
                  ))}
                </ul>
              </>
            )}
          </aside>
        </div>
      )}
    </>
  );
}

function Legend() {
  return (
    <span class="legend" aria-hidden="true">
      <i class="mtls" /> mTLS <i class="attested" /> attested on the node <i class="plaintext" /> plaintext{' '}
      <i class="warn" /> some fail <i class="bad" /> over 5 % fail
    </span>
  );
}

function nameOf(node: Node): string {
  return node.name === '' ? `${node.namespace} (${node.workloads})` : node.namespace ? node.id : node.name;
}

function List(props: { view: View; found: ReadonlySet<number> | null; choose: (id: string) => void }) {
  const { view, found } = props;
  const rows = view.nodes
    .filter((_, at) => found === null || found.has(at))
    .sort((a, b) => b.taken.rps + b.taken.cps - a.taken.rps - a.taken.cps || a.id.localeCompare(b.id));
  return (
    <>
      <h2>{view.grouped ? 'Namespaces and workloads' : 'Workloads'}, the busiest first</h2>
      {rows.length === 0 && <div class="dim">None is called that.</div>}
      <ul class="nodes">
        {rows.slice(0, LISTED).map((node) => (
          <li key={node.id}>
            <button type="button" data-node={node.id} onClick={() => props.choose(node.id)}>
              <span>{nameOf(node)}</span>
              <span class="figure">{rate(node.taken.rps || node.taken.cps)}/s</span>
            </button>
          </li>
        ))}
      </ul>
      {rows.length > LISTED && <div class="dim">{rows.length - LISTED} more: search for them.</div>}
    </>
  );
}

function Chosen(props: {
  view: View;
  at: number;
  choose: (id: string) => void;
  open: (namespace: string) => void;
  close: ((namespace: string) => void) | undefined;
}) {
  const { view, at, choose } = props;
  const node = view.nodes[at] as Node;
  const { taken } = node;
  const edges = (to: boolean) =>
    view.edges
      .filter((edge) => (to ? edge.destination : edge.source) === at)
      .sort((a, b) => b.seen.rps + b.seen.cps - a.seen.rps - a.seen.cps);
  const rows: [string, string][] = [
    ['Requests/s', rate(taken.rps)],
    ['Success', success(taken)],
    ['p50, p99', `${milliseconds(taken.p50_ms)}, ${milliseconds(taken.p99_ms)}`],
    ['Connections/s', rate(taken.cps)],
    ['Open', rate(taken.open)],
    ['Received', `${bytes(taken.sent_bps)}/s`],
    ['mTLS', securedShare(taken)],
  ];
  return (
    <>
      <button type="button" class="back" onClick={() => choose('')}>
        ‹ All
      </button>
      <h2 id="chosen">{nameOf(node)}</h2>
      <p>
        {node.pods === 0 ? (
          <Badge>not of this mesh</Badge>
        ) : node.meshed === node.pods ? (
          <Badge mood="good">in the mesh</Badge>
        ) : (
          <Badge mood="warn">
            {node.meshed} of {node.pods} pods in the mesh
          </Badge>
        )}
      </p>
      {node.name === '' ? (
        <button type="button" onClick={() => props.open(node.namespace)}>
          Open this namespace
        </button>
      ) : (
        props.close &&
        node.namespace && (
          <button type="button" onClick={() => props.close?.(node.namespace)}>
            Close namespace {node.namespace}
          </button>
        )
      )}
      <dl class="facts">
        {rows.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd class="figure">{value}</dd>
          </div>
        ))}
      </dl>
      {node.services.length > 0 && (
        <>
          <h3>Services</h3>
          <ul class="nodes">
            {node.services.map((name) => {
              const [namespace, ...host] = name.split('/');
              return (
                <li key={name}>
                  <a href={serviceLink(namespace ?? '', host.join('/'))}>{short(name)}</a>
                </li>
              );
            })}
          </ul>
        </>
      )}
      <Ends title="Called by" edges={edges(true).map((edge) => [view.nodes[edge.source] as Node, edge.seen])} choose={choose} />
      <Ends title="Calls" edges={edges(false).map((edge) => [view.nodes[edge.destination] as Node, edge.seen])} choose={choose} />
    </>
  );
}

/** How it was secured and which way it took, as far as it was seen. */
function ways(seen: View['edges'][number]['seen']): string {
  const all: [string, number][] = [
    ['mTLS', seen.mutual_tls],
    ['attested', seen.kernel_attested],
    ['plaintext', seen.plaintext],
    ['direct', seen.direct],
    ['local', seen.local],
    ['tunnel', seen.tunnel],
    ['passthrough', seen.passthrough],
  ];
  return all.flatMap(([word, count]) => (count > 0 ? [word] : [])).join(', ');
}

function Ends(props: { title: string; edges: [Node, View['edges'][number]['seen']][]; choose: (id: string) => void }) {
  const { title, edges, choose } = props;
  return (
    <>
      <h3>{title}</h3>
      {edges.length === 0 && <div class="dim">Nobody of late</div>}
      <ul class="nodes">
        {edges.slice(0, LISTED).map(([node, seen]) => (
          <li key={node.id}>
            <button type="button" onClick={() => choose(node.id)}>
              <span>
                {nameOf(node)}
                <small class="dim">{ways(seen)}</small>
              </span>
              <span class="figure">
                {rate(seen.rps || seen.cps)}/s · {success(seen)} · {milliseconds(seen.p99_ms)}
              </span>
            </button>
          </li>
        ))}
      </ul>
    </>
  );
}

function Picture(props: {
  view: View;
  chosen: number;
  found: ReadonlySet<number> | null;
  choose: (id: string) => void;
  open: (namespace: string) => void;
}) {
  const { view } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  const worker = useRef<Worker | null>(null);
  const state = useRef({
    camera: { x: 0, y: 0, zoom: 1 } as Camera,
    fitted: false,
    asked: '',
    number: 0,
    /** Of the nodes with these ids. */
    placed: { ids: [] as string[], xy: new Float32Array() as Float32Array },
    waiting: new Map<number, string[]>(),
    frame: 0,
  });
  const latest = useRef(props);
  latest.current = props;

  const paint = () => {
    const own = state.current;
    if (own.frame) {
      return;
    }
    own.frame = requestAnimationFrame(() => {
      own.frame = 0;
      const on = canvas.current;
      if (!on || own.placed.ids.length === 0) {
        return;
      }
      const { view, chosen, found } = latest.current;
      draw(on, view, places(), own.camera, chosen, found, colours(on));
    });
  };
  /** Of the nodes as they are now, also if the layout of newer ones is on its way. */
  const places = (): Float32Array => {
    const { placed } = state.current;
    const { nodes } = latest.current.view;
    if (placed.ids.length === nodes.length && placed.ids.every((id, at) => id === nodes[at]?.id)) {
      return placed.xy;
    }
    const known = new Map(placed.ids.map((id, at) => [id, at]));
    const xy = new Float32Array(nodes.length * 2);
    nodes.forEach((node, at) => {
      const from = known.get(node.id) ?? known.get(`${node.namespace}/`);
      xy[at * 2] = from === undefined ? 0 : (placed.xy[from * 2] ?? 0);
      xy[at * 2 + 1] = from === undefined ? 0 : (placed.xy[from * 2 + 1] ?? 0);
    });
    return xy;
  };
  const fit = () => {
    const on = canvas.current;
    const { xy } = state.current.placed;
    if (!on || xy.length === 0) {
      return;
    }
    let [left, right, top, bottom] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let at = 0; at < xy.length; at += 2) {
      left = Math.min(left, xy[at] ?? 0);
      right = Math.max(right, xy[at] ?? 0);
      top = Math.min(top, xy[at + 1] ?? 0);
      bottom = Math.max(bottom, xy[at + 1] ?? 0);
    }
    const zoom = Math.min(1.4, on.clientWidth / (right - left + 180), on.clientHeight / (bottom - top + 160));
    state.current.camera = { x: (left + right) / 2, y: (top + bottom) / 2, zoom: Math.max(0.05, zoom) };
  };

  useEffect(() => {
    const made = new Worker(new URL('./layout.ts', import.meta.url), { type: 'module', name: 'layout' });
    worker.current = made;
    made.onmessage = (event: MessageEvent<Places>) => {
      const own = state.current;
      const ids = own.waiting.get(event.data.number);
      if (!ids) {
        return;
      }
      own.placed = { ids, xy: event.data.xy };
      if (!own.fitted) {
        fit();
      }
      if (event.data.done) {
        own.fitted = true;
        own.waiting.delete(event.data.number);
        canvas.current?.setAttribute('data-placed', String(ids.length));
      }
      paint();
    };
    const dark = matchMedia('(prefers-color-scheme: dark)');
    dark.addEventListener('change', paint);
    const sized = new ResizeObserver(paint);
    if (canvas.current) {
      sized.observe(canvas.current);
    }
    return () => {
      made.terminate();
      dark.removeEventListener('change', paint);
      sized.disconnect();
      cancelAnimationFrame(state.current.frame);
    };
  }, []);

  // A layout is asked for only if somebody came, went, or speaks to somebody else.
  useEffect(() => {
    const own = state.current;
    const ids = view.nodes.map((node) => node.id);
    const edges = view.edges.map((edge) => [edge.source, edge.destination] as [number, number]);
    const shape = `${ids.join('\n')}\n${edges.join(';')}`;
    if (shape !== own.asked) {
      own.asked = shape;
      own.number += 1;
      own.waiting.clear();
      own.waiting.set(own.number, ids);
      worker.current?.postMessage({ number: own.number, ids, edges } satisfies Task);
    }
    paint();
  }, [view]);
  useEffect(paint, [props.chosen, props.found]);

  const hit = (event: MouseEvent): Node | undefined => {
    const on = canvas.current;
    if (!on) {
      return undefined;
    }
    const { camera } = state.current;
    const frame = on.getBoundingClientRect();
    const x = (event.clientX - frame.left - on.clientWidth / 2) / camera.zoom + camera.x;
    const y = (event.clientY - frame.top - on.clientHeight / 2) / camera.zoom + camera.y;
    const xy = places();
    return latest.current.view.nodes.findLast(
      (node, at) => Math.hypot((xy[at * 2] ?? 0) - x, (xy[at * 2 + 1] ?? 0) - y) <= radius(node) + 4,
    );
  };
  const zoom = (by: number, event?: MouseEvent) => {
    const on = canvas.current;
    if (!on) {
      return;
    }
    const { camera } = state.current;
    const frame = on.getBoundingClientRect();
    const [dx, dy] = event
      ? [event.clientX - frame.left - on.clientWidth / 2, event.clientY - frame.top - on.clientHeight / 2]
      : [0, 0];
    const next = Math.min(4, Math.max(0.05, camera.zoom * by));
    camera.x += dx / camera.zoom - dx / next;
    camera.y += dy / camera.zoom - dy / next;
    camera.zoom = next;
    paint();
  };
  const drag = useRef<{ x: number; y: number; moved: boolean } | null>(null);
  // Passive listeners, which is what frameworks add, cannot keep the page from scrolling.
  useEffect(() => {
    const on = canvas.current;
    const wheel = (event: WheelEvent) => {
      event.preventDefault();
      zoom(Math.exp(-event.deltaY / 400), event);
    };
    on?.addEventListener('wheel', wheel, { passive: false });
    return () => on?.removeEventListener('wheel', wheel);
  }, []);

  return (
    <div class="picture">
      <canvas
        ref={canvas}
        role="img"
        aria-label={`Graph of ${view.nodes.length} nodes and ${view.edges.length} edges; the list beside it has the same`}
        onPointerDown={(event) => {
          drag.current = { x: event.clientX, y: event.clientY, moved: false };
          event.currentTarget.setPointerCapture(event.pointerId);
        }}
        onPointerMove={(event) => {
          const from = drag.current;
          if (!from) {
            event.currentTarget.classList.toggle('over', !!hit(event));
            return;
          }
          const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
          if (!from.moved && Math.hypot(dx, dy) < 4) {
            return;
          }
          const { camera } = state.current;
          camera.x -= dx / camera.zoom;
          camera.y -= dy / camera.zoom;
          drag.current = { x: event.clientX, y: event.clientY, moved: true };
          paint();
        }}
        onPointerUp={(event) => {
          const from = drag.current;
          drag.current = null;
          if (from && !from.moved) {
            props.choose(hit(event)?.id ?? '');
          }
        }}
        onDblClick={(event) => {
          const node = hit(event);
          if (node?.name === '') {
            props.open(node.namespace);
          }
        }}
      />
      <div class="tools">
        <button type="button" aria-label="Closer" onClick={() => zoom(1.3)}>
          +
        </button>
        <button type="button" aria-label="Farther" onClick={() => zoom(1 / 1.3)}>
          −
        </button>
        <button
          type="button"
          aria-label="All of it"
          onClick={() => {
            fit();
            paint();
          }}
        >
          ⤢
        </button>
      </div>
    </div>
  );
}
