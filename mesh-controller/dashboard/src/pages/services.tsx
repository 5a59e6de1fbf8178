import { useState } from 'preact/hooks';
import { type Listed, type Service, useTold } from '../api';
import { Asked, Namespaces, Search, Table, seenColumns } from '../pieces';
import { service as short } from '../words';

export function serviceLink(namespace: string, hostname: string): string {
  return `#/service/${encodeURIComponent(namespace)}/${encodeURIComponent(hostname)}`;
}

export function ServicesPage() {
  const told = useTold<Listed<Service>>('services');
  const [text, setText] = useState('');
  const [namespace, setNamespace] = useState('');
  return (
    <Asked told={told}>
      {({ rows }) => {
        const wanted = rows.filter(
          (row) =>
            (namespace === '' || row.namespace === namespace) &&
            `${row.namespace}/${row.hostname}`.includes(text.trim()),
        );
        return (
          <>
            <div class="bar">
              <h1>Services</h1>
              <Search label="Name" value={text} onInput={setText} />
              <Namespaces all={rows.map((row) => row.namespace)} value={namespace} onChange={setNamespace} />
              <span class="dim">of the last minute</span>
            </div>
            <Table
              name="Services"
              rows={wanted}
              id={(row) => `${row.namespace}/${row.hostname}`}
              columns={[
                {
                  title: 'Service',
                  key: (row) => `${row.namespace}/${row.hostname}`,
                  cell: (row) => (
                    <a href={serviceLink(row.namespace, row.hostname)}>{short(`${row.namespace}/${row.hostname}`)}</a>
                  ),
                },
                { title: 'Ports', key: (row) => row.ports.join(', ') },
                {
                  title: 'Endpoints',
                  figure: true,
                  key: (row) => row.endpoints,
                  cell: (row) => (
                    <span class={row.healthy < row.endpoints ? 'bad' : ''}>{`${row.healthy}/${row.endpoints}`}</span>
                  ),
                  hint: 'Healthy, of all',
                },
                ...seenColumns<Service>(),
                { title: 'Address', key: (row) => row.addresses.join(', ') || 'headless' },
              ]}
              empty={rows.length > 0 ? 'No service has that name.' : 'The controller knows no service.'}
            />
          </>
        );
      }}
    </Asked>
  );
}
