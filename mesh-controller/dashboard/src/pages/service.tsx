import { type ServicePage, useTold } from '../api';
import { Asked, Badge, Table, secured, seenColumns, success } from '../pieces';
import { bytes, milliseconds, rate, service as short } from '../words';

export function ServicePageView(props: { namespace: string; host: string }) {
  const { namespace, host } = props;
  const told = useTold<ServicePage>(`service/${encodeURIComponent(namespace)}/${encodeURIComponent(host)}`);
  return (
    <Asked told={told}>
      {(data) => (
        <>
          <div class="bar">
            <h1>{short(`${namespace}/${host}`)}</h1>
            <span class="dim">
              {data.addresses.join(', ') || 'headless'}, ports {data.ports.join(', ') || 'none'}
              {data.load_balancing && `, ${data.load_balancing}`}
            </span>
            <a href={`#/flows?service=${encodeURIComponent(`${namespace}/${host}`)}`}>Its flows</a>
          </div>
          <dl class="figures">
            <Figure name="Requests/s" value={rate(data.seen?.rps)} />
            <Figure name="Success" value={success(data.seen)} />
            <Figure name="p50" value={milliseconds(data.seen?.p50_ms)} />
            <Figure name="p95" value={milliseconds(data.seen?.p95_ms)} />
            <Figure name="p99" value={milliseconds(data.seen?.p99_ms)} />
            <Figure name="Connections/s" value={rate(data.seen?.cps)} />
            <Figure name="Sent" value={data.seen ? `${bytes(data.seen.sent_bps)}/s` : '–'} />
            <Figure name="mTLS" value={secured(data.seen)} />
          </dl>
          <section aria-label="Versions">
            <h2>Versions</h2>
            <Table
              name="Versions"
              rows={data.versions}
              id={(row) => `${row.namespace}/${row.workload}/${row.revision}`}
              columns={[
                { title: 'Workload', key: (row) => `${row.namespace}/${row.workload}` },
                { title: 'Version', key: (row) => row.revision || '–' },
                {
                  title: 'Pods',
                  figure: true,
                  key: (row) => row.pods,
                  cell: (row) => <span class={row.healthy < row.pods ? 'bad' : ''}>{`${row.healthy}/${row.pods}`}</span>,
                },
                ...seenColumns<ServicePage['versions'][number]>(),
              ]}
              empty="No pod serves it: its selector matches none, or none is ready."
            />
          </section>
          <section aria-label="Routes">
            <h2>Routes</h2>
            <Table
              name="Routes"
              rows={data.routes}
              id={(row) => row.route}
              columns={[
                {
                  title: 'Route',
                  key: (row) => row.route,
                  cell: (row) => row.route || <span class="dim">no route was asked</span>,
                },
                ...seenColumns<ServicePage['routes'][number]>().slice(0, 4),
                { title: 'Since start', figure: true, key: (row) => row.requests },
                { title: 'Retries', figure: true, key: (row) => row.retries },
                {
                  title: 'Flags',
                  key: (row) =>
                    Object.entries(row.flags)
                      .map(([flag, count]) => `${flag} ${count}`)
                      .join(', ') || '–',
                  hint: "Envoy's response flags, of answers that an agent gave itself or changed",
                },
              ]}
              empty={
                <>
                  Nobody reads its requests, or there were none. A VirtualService or HTTPRoute for it, or the label{' '}
                  <code>nodemesh.io/l7</code>, makes agents read them.
                </>
              }
            />
            {data.rules !== null && (
              <details>
                <summary>What agents are told of its traffic</summary>
                <pre>{JSON.stringify(data.rules, null, 2)}</pre>
              </details>
            )}
          </section>
          <section aria-label="Policies">
            <h2>Policies of its pods</h2>
            <Table
              name="Policies"
              rows={data.policies}
              id={(row) => `${row.namespace}/${row.name}`}
              columns={[
                { title: 'Policy', key: (row) => `${row.namespace}/${row.name}` },
                {
                  title: 'Action',
                  key: (row) => row.action,
                  cell: (row) => <Badge mood={row.action.startsWith('DENY') ? 'bad' : 'plain'}>{row.action}</Badge>,
                },
                { title: 'Scope', key: (row) => row.scope },
                { title: 'Rules', figure: true, key: (row) => row.rules },
                { title: 'Pods', figure: true, key: (row) => row.pods },
              ]}
              empty="None: everybody who may reach its pods is served."
            />
          </section>
          <section aria-label="Clients">
            <h2>Clients</h2>
            <Table
              name="Clients"
              rows={data.clients}
              id={(row) => `${row.namespace}/${row.name} ${row.to}`}
              first={2}
              columns={[
                {
                  title: 'Client',
                  key: (row) => `${row.namespace}/${row.name}`,
                  cell: (row) => (row.namespace ? `${row.namespace}/${row.name}` : row.name),
                },
                { title: 'To', key: (row) => row.to },
                ...seenColumns<ServicePage['clients'][number]>(),
              ]}
              empty="Nobody spoke to its pods within the last minute."
            />
          </section>
        </>
      )}
    </Asked>
  );
}

function Figure(props: { name: string; value: string }) {
  return (
    <div>
      <dt>{props.name}</dt>
      <dd>{props.value}</dd>
    </div>
  );
}
