// What every page is made of: tables, errors, empty states.

import type { ComponentChildren, JSX } from 'preact';
import { useMemo, useState } from 'preact/hooks';
import { type Figures, Refusal, type Told } from './api';
import { milliseconds, rate, share } from './words';

export type Column<T> = {
  title: string;
  /** Figures are aligned by their digits, and sorted from the largest. */
  figure?: boolean;
  key: (row: T) => string | number;
  cell?: (row: T) => ComponentChildren;
  hint?: string;
};

/** Rows beyond are shown on demand: a browser lays out some hundreds at once without a pause. */
const STEP = 200;

export function Table<T>(props: {
  name: string;
  rows: T[];
  columns: Column<T>[];
  id: (row: T) => string;
  first?: number;
  /** As they come. */
  unsorted?: boolean;
  empty: ComponentChildren;
}): JSX.Element {
  const { rows, columns } = props;
  const [by, setBy] = useState({ column: props.first ?? 0, down: columns[props.first ?? 0]?.figure ?? false });
  const [shown, setShown] = useState(STEP);
  const sorted = useMemo(() => {
    const column = columns[by.column];
    if (props.unsorted || !column) {
      return rows;
    }
    const keyed = rows.map((row) => ({ row, key: column.key(row), id: props.id(row) }));
    keyed.sort((one, other) => {
      const order =
        typeof one.key === 'number' && typeof other.key === 'number'
          ? one.key - other.key
          : String(one.key).localeCompare(String(other.key), 'en', { numeric: true });
      return (by.down ? -order : order) || one.id.localeCompare(other.id);
    });
    return keyed.map((entry) => entry.row);
  }, [rows, by]);
  if (rows.length === 0) {
    return <div class="empty">{props.empty}</div>;
  }
  return (
    <div class="scroll">
      <table aria-label={props.name}>
        <thead>
          <tr>
            {columns.map((column, index) => (
              <th
                key={column.title}
                class={column.figure ? 'figure' : ''}
                title={column.hint}
                aria-sort={props.unsorted || by.column !== index ? undefined : by.down ? 'descending' : 'ascending'}
              >
                {props.unsorted ? (
                  column.title
                ) : (
                  <button
                    type="button"
                    onClick={() =>
                      setBy({ column: index, down: by.column === index ? !by.down : (column.figure ?? false) })
                    }
                  >
                    {column.title}
                    <span class="order" aria-hidden="true">
                      {by.column === index ? (by.down ? '▾' : '▴') : ''}
                    </span>
                  </button>
                )}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {sorted.slice(0, shown).map((row) => (
            <tr key={props.id(row)}>
              {columns.map((column) => (
                <td key={column.title} class={column.figure ? 'figure' : ''}>
                  {column.cell ? column.cell(row) : column.key(row)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
      {sorted.length > shown && (
        <button type="button" class="more" onClick={() => setShown(shown + STEP)}>
          {(sorted.length - shown).toLocaleString('en')} more: show the next {STEP}
        </button>
      )}
    </div>
  );
}

/** What is shown until there is an answer, and beside an answer that is not whole. */
export function Asked<T extends { errors?: string[] }>(props: {
  told: Told<T>;
  children: (data: T) => ComponentChildren;
}): JSX.Element {
  const { data, failure } = props.told;
  const errors = data?.errors ?? [];
  return (
    <>
      {failure && <Failure failure={failure} />}
      {errors.length > 0 && (
        <div class="note bad" role="status">
          Not the whole mesh: {errors.join('; ')}
        </div>
      )}
      {data ? props.children(data) : !failure && <div class="empty">Asking the agents …</div>}
    </>
  );
}

export function Failure({ failure }: { failure: Error }): JSX.Element {
  const locked = failure instanceof Refusal && failure.status === 401;
  return (
    <div class="note bad" role="alert">
      {locked ? (
        <>
          <b>Locked.</b> This page needs the token of the controller as it runs now: <code>meshctl dashboard</code> opens
          it with one.
        </>
      ) : failure instanceof Refusal ? (
        failure.message
      ) : (
        <>No answer ({failure.message}). Does the controller run, and meshctl dashboard still? Trying again …</>
      )}
    </div>
  );
}

export function Badge(props: { mood?: 'good' | 'bad' | 'warn' | 'plain'; children: ComponentChildren }): JSX.Element {
  return <span class={`badge ${props.mood ?? 'plain'}`}>{props.children}</span>;
}

export function verdictMood(verdict: string): 'good' | 'bad' | 'warn' | 'plain' {
  return verdict === 'FORWARDED' ? 'good' : verdict === 'DROPPED' || verdict === 'ERROR' ? 'bad' : 'warn';
}

/** Requests that went well, of all that were told; without requests: connections. */
export function success(seen: Figures | null): string {
  if (!seen) {
    return '–';
  }
  return seen.rps > 0
    ? share(seen.rps - seen.failed_rps - seen.refused_rps, seen.rps)
    : share(seen.cps - seen.failed_cps - seen.refused_cps, seen.cps);
}

export function secured(seen: Figures | null): string {
  return seen ? share(seen.mutual_tls, seen.mutual_tls + seen.kernel_attested + seen.plaintext) : '–';
}

/** The columns of what was seen, the same in every table. */
export function seenColumns<T extends { seen: Figures | null }>(): Column<T>[] {
  return [
    { title: 'Requests/s', figure: true, key: (row) => row.seen?.rps ?? -1, cell: (row) => rate(row.seen?.rps) },
    {
      title: 'Success',
      figure: true,
      key: (row) => parseFloat(success(row.seen)) || (success(row.seen) === '0 %' ? 0 : 101),
      cell: (row) => <span class={isBad(row.seen) ? 'bad' : ''}>{success(row.seen)}</span>,
      hint: 'Requests neither failed nor refused; where nobody reads requests, connections',
    },
    { title: 'p50', figure: true, key: (row) => row.seen?.p50_ms ?? -1, cell: (row) => milliseconds(row.seen?.p50_ms) },
    { title: 'p99', figure: true, key: (row) => row.seen?.p99_ms ?? -1, cell: (row) => milliseconds(row.seen?.p99_ms) },
    { title: 'Conns/s', figure: true, key: (row) => row.seen?.cps ?? -1, cell: (row) => rate(row.seen?.cps) },
    {
      title: 'mTLS',
      figure: true,
      key: (row) => (row.seen ? row.seen.mutual_tls / Math.max(1, row.seen.mutual_tls + row.seen.kernel_attested + row.seen.plaintext) : -1),
      cell: (row) => secured(row.seen),
      hint: 'Of connections and requests; within a node the kernel may attest instead',
    },
  ];
}

function isBad(seen: Figures | null): boolean {
  return !!seen && seen.failed_rps + seen.refused_rps + seen.failed_cps + seen.refused_cps > 0;
}

/** A text field that filters a list. */
export function Search(props: { label: string; value: string; onInput: (value: string) => void }): JSX.Element {
  return (
    <input
      type="search"
      placeholder={props.label}
      aria-label={props.label}
      value={props.value}
      onInput={(event) => props.onInput(event.currentTarget.value)}
    />
  );
}

export function Namespaces(props: { all: string[]; value: string; onChange: (value: string) => void }): JSX.Element {
  const all = [...new Set(props.all.filter((name) => name !== ''))].sort();
  return (
    <select aria-label="Namespace" value={props.value} onChange={(event) => props.onChange(event.currentTarget.value)}>
      <option value="">All namespaces</option>
      {all.map((name) => (
        <option key={name} value={name}>
          {name}
        </option>
      ))}
    </select>
  );
}
