// Figures and names as people read them.

export function rate(perSecond: number | null | undefined): string {
  if (perSecond === null || perSecond === undefined) {
    return '–';
  }
  if (perSecond === 0) {
    return '0';
  }
  return perSecond < 10 ? perSecond.toFixed(perSecond < 0.1 ? 2 : 1) : Math.round(perSecond).toLocaleString('en');
}

export function milliseconds(ms: number | null | undefined): string {
  if (ms === null || ms === undefined) {
    return '–';
  }
  if (ms < 1) {
    return `${ms.toFixed(2)} ms`;
  }
  return ms < 1000 ? `${ms.toFixed(ms < 10 ? 1 : 0)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

export function bytes(count: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (count >= 1024 && unit + 1 < units.length) {
    count /= 1024;
    unit += 1;
  }
  return `${count < 10 && unit > 0 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

export function share(part: number, whole: number): string {
  if (whole <= 0) {
    return '–';
  }
  const percent = (100 * part) / whole;
  // A single failure among many is not none.
  return part > 0 && percent < 0.1 ? '<0.1 %' : `${percent.toFixed(percent === 0 || percent >= 99.95 ? 0 : 1)} %`;
}

export function time(at: number | null): string {
  return at === null ? '–' : new Date(at).toISOString().replace('T', ' ').slice(0, 19);
}

export function clock(at: number | null): string {
  return at === null ? '–' : new Date(at).toISOString().slice(11, 23);
}

export function span(ms: number): string {
  const seconds = Math.floor(Math.abs(ms) / 1000);
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days > 0) {
    return `${days} d ${hours} h`;
  }
  if (hours > 0) {
    return `${hours} h ${minutes} min`;
  }
  return minutes > 0 ? `${minutes} min` : `${seconds} s`;
}

/** `namespace/account` of a SPIFFE id; any other text as it is. */
export function identity(id: string): string {
  const parts = /^spiffe:\/\/[^/]+\/ns\/([^/]+)\/sa\/([^/]+)$/.exec(id);
  return parts ? `${parts[1]}/${parts[2]}` : id;
}

/** `namespace/name` of a Kubernetes service; any other as it is. */
export function service(name: string): string {
  const parts = /^([^/]+)\/([^.]+)\.\1\.svc\..+$/.exec(name);
  return parts ? `${parts[1]}/${parts[2]}` : name;
}

const SECURITY: Record<string, string> = { mutual_tls: 'mTLS', kernel_attested: 'attested', none: 'plaintext' };

export function security(word: string): string {
  return SECURITY[word] ?? word;
}
