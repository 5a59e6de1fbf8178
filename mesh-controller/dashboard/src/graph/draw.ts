// Paints a view on a canvas. Knows nothing of the page.

import { type Edge, type Node, type View, secured, trouble } from './model';

export type Camera = { x: number; y: number; zoom: number };

export type Colours = {
  text: string;
  dim: string;
  surface: string;
  good: string;
  warn: string;
  bad: string;
  mtls: string;
  attested: string;
  plaintext: string;
};

/** Arrows and bent lines up to so many edges: more are one grey cloud anyway. */
const DETAILED = 1500;
/** Lines of so many edges let each other through. */
const DENSE = 120;
/** Shares of failures that have a colour. */
const BAD = 0.05;
const SOME = 0.001;

export function radius(node: Node): number {
  const busy = node.taken.rps + node.taken.cps;
  return (node.name === '' ? 16 : 9) + Math.min(14, 3 * Math.log2(1 + busy));
}

export function colours(of: Element): Colours {
  const style = getComputedStyle(of);
  const named = (name: string) => style.getPropertyValue(`--${name}`).trim();
  return {
    text: named('text'),
    dim: named('dim'),
    surface: named('surface'),
    good: named('good'),
    warn: named('warn'),
    bad: named('bad'),
    mtls: named('mtls'),
    attested: named('attested'),
    plaintext: named('plaintext'),
  };
}

export function draw(
  canvas: HTMLCanvasElement,
  view: View,
  xy: Float32Array,
  camera: Camera,
  chosen: number,
  found: ReadonlySet<number> | null,
  palette: Colours,
): void {
  const pen = canvas.getContext('2d');
  if (!pen) {
    return;
  }
  const density = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * density) || canvas.height !== Math.round(height * density)) {
    canvas.width = Math.round(width * density);
    canvas.height = Math.round(height * density);
  }
  pen.setTransform(density, 0, 0, density, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.translate(width / 2, height / 2);
  pen.scale(camera.zoom, camera.zoom);
  pen.translate(-camera.x, -camera.y);

  const near = new Set<number>();
  if (chosen >= 0) {
    near.add(chosen);
    for (const edge of view.edges) {
      if (edge.source === chosen) {
        near.add(edge.destination);
      } else if (edge.destination === chosen) {
        near.add(edge.source);
      }
    }
  }
  const detailed = view.edges.length <= DETAILED;
  const most = view.edges.reduce((most, { seen }) => Math.max(most, seen.rps + seen.cps), 20);
  // By looks, so that each is one stroke.
  const looks = new Map<string, Edge[]>();
  for (const edge of view.edges) {
    const touched = chosen < 0 || edge.source === chosen || edge.destination === chosen;
    const bad = trouble(edge.seen);
    const colour = bad > BAD ? palette.bad : bad > SOME ? palette.warn : palette[secured(edge.seen)];
    const wide = 1 + (4 * Math.log2(1 + edge.seen.rps + edge.seen.cps)) / Math.log2(1 + most);
    const look = [colour, secured(edge.seen) === 'plaintext' ? 'dashed' : '', touched ? '' : 'faint', wide.toFixed(0)];
    const key = look.join('|');
    const same = looks.get(key);
    if (same) {
      same.push(edge);
    } else {
      looks.set(key, [edge]);
    }
  }
  for (const [key, edges] of [...looks].sort(([one], [other]) => (one.includes('faint') ? 0 : 1) - (other.includes('faint') ? 0 : 1))) {
    const [colour, dashed, faint, wide] = key.split('|') as [string, string, string, string];
    pen.strokeStyle = colour;
    pen.fillStyle = colour;
    pen.lineWidth = detailed ? Number(wide) : 0.7;
    pen.globalAlpha = faint ? 0.06 : !detailed ? 0.25 : chosen < 0 && view.edges.length > DENSE ? 0.4 : 0.85;
    pen.setLineDash(dashed && detailed ? [7, 5] : []);
    pen.beginPath();
    for (const edge of edges) {
      line(pen, view, edge, xy, detailed);
    }
    pen.stroke();
    if (detailed && !faint) {
      pen.setLineDash([]);
      for (const edge of edges) {
        arrow(pen, view, edge, xy, Number(wide));
      }
    }
  }
  pen.setLineDash([]);
  const labels = view.nodes.length <= 200 || camera.zoom > 0.8;
  view.nodes.forEach((node, at) => {
    const [x, y] = [xy[at * 2] ?? 0, xy[at * 2 + 1] ?? 0];
    const faded = (chosen >= 0 && !near.has(at)) || (found !== null && !found.has(at));
    pen.globalAlpha = faded ? 0.25 : 1;
    const size = radius(node);
    const bad = trouble(node.taken);
    pen.fillStyle = palette.surface;
    pen.strokeStyle =
      bad > BAD ? palette.bad : bad > SOME ? palette.warn : node.pods === 0 || node.meshed === 0 ? palette.plaintext : palette.good;
    pen.lineWidth = at === chosen ? 5 : 3;
    pen.beginPath();
    if (node.name === '') {
      pen.roundRect(x - size, y - size, size * 2, size * 2, 7);
    } else {
      pen.arc(x, y, size, 0, 2 * Math.PI);
    }
    pen.fill();
    pen.stroke();
    if (labels || !faded === (chosen >= 0 || found !== null)) {
      pen.fillStyle = palette.text;
      pen.textAlign = 'center';
      pen.font = '600 13px system-ui, sans-serif';
      pen.fillText(short(node.name || node.namespace), x, y + size + 16);
      pen.fillStyle = palette.dim;
      pen.font = '11px system-ui, sans-serif';
      const under = node.name === '' ? `${node.workloads} workloads` : node.namespace;
      if (under) {
        pen.fillText(short(under), x, y + size + 30);
      }
    }
  });
  pen.globalAlpha = 1;
}

function short(text: string): string {
  return text.length > 28 ? `${text.slice(0, 27)}…` : text;
}

/** From rim to rim, with a bend so that both directions are seen. */
function ends(view: View, edge: Edge, xy: Float32Array) {
  const [x1, y1] = [xy[edge.source * 2] ?? 0, xy[edge.source * 2 + 1] ?? 0];
  const [x2, y2] = [xy[edge.destination * 2] ?? 0, xy[edge.destination * 2 + 1] ?? 0];
  const long = Math.hypot(x2 - x1, y2 - y1) || 1;
  const [ux, uy] = [(x2 - x1) / long, (y2 - y1) / long];
  const bend = Math.min(28, long / 8);
  const [mx, my] = [(x1 + x2) / 2 - uy * bend, (y1 + y2) / 2 + ux * bend];
  const target = radius(view.nodes[edge.destination] as Node) + 4;
  const source = radius(view.nodes[edge.source] as Node) + 2;
  const into = Math.hypot(x2 - mx, y2 - my) || 1;
  const [vx, vy] = [(x2 - mx) / into, (y2 - my) / into];
  return { x1: x1 + ux * source, y1: y1 + uy * source, mx, my, x2: x2 - vx * target, y2: y2 - vy * target, vx, vy };
}

function line(pen: CanvasRenderingContext2D, view: View, edge: Edge, xy: Float32Array, detailed: boolean): void {
  if (edge.source === edge.destination) {
    if (view.nodes[edge.source]?.name === '') {
      return;
    }
    const [x, y] = [xy[edge.source * 2] ?? 0, xy[edge.source * 2 + 1] ?? 0];
    const size = radius(view.nodes[edge.source] as Node);
    pen.moveTo(x + size * 0.7, y - size * 0.7);
    pen.arc(x + size, y - size, size * 0.6, Math.PI * 0.8, Math.PI * 2.6);
    return;
  }
  if (!detailed) {
    pen.moveTo(xy[edge.source * 2] ?? 0, xy[edge.source * 2 + 1] ?? 0);
    pen.lineTo(xy[edge.destination * 2] ?? 0, xy[edge.destination * 2 + 1] ?? 0);
    return;
  }
  const { x1, y1, mx, my, x2, y2 } = ends(view, edge, xy);
  pen.moveTo(x1, y1);
  pen.quadraticCurveTo(mx, my, x2, y2);
}

function arrow(pen: CanvasRenderingContext2D, view: View, edge: Edge, xy: Float32Array, wide: number): void {
  if (edge.source === edge.destination) {
    return;
  }
  const { x2, y2, vx, vy } = ends(view, edge, xy);
  const size = 6 + wide;
  pen.beginPath();
  pen.moveTo(x2 + vx * 3, y2 + vy * 3);
  pen.lineTo(x2 - vx * size - vy * size * 0.5, y2 - vy * size + vx * size * 0.5);
  pen.lineTo(x2 - vx * size + vy * size * 0.5, y2 - vy * size - vx * size * 0.5);
  pen.fill();
}
