import { useEffect, useState } from 'preact/hooks';
import { type End, type Flow, type Listed, useTold } from '../api';
import { Asked, Badge, Table, verdictMood } from '../pieces';
import { bytes, clock, identity, milliseconds, security, service } from '../words';

const FIELDS = [
  ['namespace', 'Namespace'],
  ['from', 'From pod'],
  ['to', 'To pod or service'],
  ['pod', 'Either pod'],
  ['service', 'Service'],
  ['reason', 'Reason'],
  ['status', 'Status: 404, 5xx'],
] as const;

export function endText(end: End): string {
  return end.pod ? `${end.namespace}/${end.pod}` : end.address || 'unknown';
}

export function FlowsPage(props: { query: string }) {
  const [filter, setFilter] = useState(() => new URLSearchParams(props.query));
  useEffect(() => setFilter(new URLSearchParams(props.query)), [props.query]);
  const [typed, setTyped] = useState<Record<string, string>>({});
  const search = filter.toString();
  const told = useTold<Listed<Flow>>(search ? `flows?${search.replaceAll('+', '%20')}` : 'flows', 3000);
  const set = (name: string, value: string) => {
    const next = new URLSearchParams(filter);
    if (value.trim() === '') {
      next.delete(name);
    } else {
      next.set(name, value.trim());
    }
    location.hash = next.size > 0 ? `#/flows?${next}` : '#/flows';
  };
  return (
    <>
      <form
        class="bar"
        onSubmit={(event) => {
          event.preventDefault();
        }}
      >
        <h1>Flows</h1>
        {FIELDS.map(([name, label]) => (
          <input
            key={name}
            type="search"
            name={name}
            placeholder={label}
            aria-label={label}
            value={typed[name] ?? filter.get(name) ?? ''}
            onInput={(event) => setTyped({ ...typed, [name]: event.currentTarget.value })}
            onChange={(event) => {
              const value = event.currentTarget.value;
              setTyped(({ [name]: _, ...rest }) => rest);
              set(name, value);
            }}
          />
        ))}
        <Choice name="verdict" label="verdict" all={['forwarded', 'dropped', 'audit', 'error']} filter={filter} set={set} />
        <Choice name="security" label="security" all={['mutual_tls', 'kernel_attested', 'none']} filter={filter} set={set} />
        <Choice name="only" label="protocol" all={['http', 'grpc', 'tcp', 'udp']} filter={filter} set={set} />
      </form>
      <Asked told={told}>
        {({ rows }) => (
          <Table
            name="Flows"
            rows={rows}
            unsorted
            id={(row) => `${row.node}/${row.id}`}
            columns={[
              {
                title: 'Time (UTC)',
                key: (row) => clock(row.end),
                cell: (row) => (
                  <a
                    href={`#/explain/${encodeURIComponent(row.node)}/${row.id}`}
                    title={`How flow ${row.id} on ${row.node} was decided`}
                  >
                    {clock(row.end)}
                  </a>
                ),
              },
              { title: 'Seen by', key: (row) => `${row.node} ${row.direction}` },
              { title: 'From', key: (row) => endText(row.source), cell: (row) => <Who end={row.source} /> },
              { title: 'To', key: (row) => endText(row.destination), cell: (row) => <Who end={row.destination} /> },
              { title: 'Service', key: (row) => service(row.service) || '–' },
              {
                title: 'Verdict',
                key: (row) => row.verdict,
                cell: (row) => (
                  <>
                    <Badge mood={verdictMood(row.verdict)}>{row.verdict}</Badge> {row.reason}
                  </>
                ),
              },
              {
                title: 'Request',
                key: (row) => (row.http ? `${row.http.method} ${row.http.path} ${row.http.status ?? ''}` : '–'),
                cell: (row) =>
                  row.http ? (
                    <span title={row.http.host}>
                      {row.http.method} {row.http.path} <b>{row.http.status ?? 'no answer'}</b>
                    </span>
                  ) : (
                    '–'
                  ),
              },
              { title: 'Path', key: (row) => row.path },
              { title: 'Secured', key: (row) => security(row.security) },
              { title: 'Bytes', figure: true, key: (row) => `${bytes(row.sent)} / ${bytes(row.received)}` },
              {
                title: 'Took',
                figure: true,
                key: (row) => (row.start === null || row.end === null ? '–' : milliseconds(row.end - row.start)),
              },
            ]}
            empty={
              search ? (
                <>
                  No kept flow is like that. <a href="#/flows">All flows</a>
                </>
              ) : (
                <>
                  No flows yet. Agents record the connections of pods in the mesh: put the label{' '}
                  <code>nodemesh.io/mode: mesh</code> (or <code>observe</code>) on a namespace.
                </>
              )
            }
          />
        )}
      </Asked>
    </>
  );
}

function Who({ end }: { end: End }) {
  return (
    <span title={`${end.address} ${end.identity}`.trim()}>
      {endText(end)}
      {end.identity && <span class="dim"> ({identity(end.identity)})</span>}
    </span>
  );
}

function Choice(props: {
  name: string;
  label: string;
  all: string[];
  filter: URLSearchParams;
  set: (name: string, value: string) => void;
}) {
  return (
    <select
      aria-label={props.label}
      value={props.filter.get(props.name) ?? ''}
      onChange={(event) => props.set(props.name, event.currentTarget.value)}
    >
      <option value="">Any {props.label}</option>
      {props.all.map((value) => (
        <option key={value} value={value}>
          {security(value)}
        </option>
      ))}
    </select>
  );
}
