import { useState } from 'preact/hooks';
import { type Listed, type Workload, useTold } from '../api';
import { Asked, Badge, Namespaces, Search, Table, seenColumns } from '../pieces';
import { identity } from '../words';

export function WorkloadsPage() {
  const told = useTold<Listed<Workload>>('workloads');
  const [text, setText] = useState('');
  const [namespace, setNamespace] = useState('');
  return (
    <Asked told={told}>
      {({ rows }) => {
        const wanted = rows.filter(
          (row) =>
            (namespace === '' || row.namespace === namespace) && `${row.namespace}/${row.name}`.includes(text.trim()),
        );
        return (
          <>
            <div class="bar">
              <h1>Workloads</h1>
              <Search label="Name" value={text} onInput={setText} />
              <Namespaces all={rows.map((row) => row.namespace)} value={namespace} onChange={setNamespace} />
              <span class="dim">of the last minute, as their clients' and their own agents saw it</span>
            </div>
            <Table
              name="Workloads"
              rows={wanted}
              id={(row) => `${row.namespace}/${row.name}`}
              columns={[
                {
                  title: 'Workload',
                  key: (row) => `${row.namespace}/${row.name}`,
                  cell: (row) => (
                    <a href={`#/flows?pod=${encodeURIComponent(`${row.namespace}/${row.name}`)}`} title="Its flows">
                      <span class="dim">{row.namespace}/</span>
                      {row.name}
                    </a>
                  ),
                },
                {
                  title: 'Mesh',
                  key: (row) => row.meshed / row.pods,
                  cell: (row) =>
                    row.meshed === row.pods ? (
                      <Badge mood="good">in the mesh</Badge>
                    ) : row.meshed > 0 ? (
                      <Badge mood="warn">
                        {row.meshed} of {row.pods}
                      </Badge>
                    ) : (
                      <Badge>outside</Badge>
                    ),
                },
                {
                  title: 'Pods',
                  figure: true,
                  key: (row) => row.pods,
                  cell: (row) => <span class={row.healthy < row.pods ? 'bad' : ''}>{`${row.healthy}/${row.pods}`}</span>,
                  hint: 'Healthy, of all',
                },
                ...seenColumns<Workload>(),
                { title: 'Identity', key: (row) => row.identities.map(identity).join(', ') },
                { title: 'Version', key: (row) => row.revisions.join(', ') || '–' },
              ]}
              empty={
                rows.length > 0 ? (
                  'No workload has that name.'
                ) : (
                  <>
                    No pods are known. The controller reads them from its source: <code>meshctl status</code> says what it
                    could not read.
                  </>
                )
              }
            />
          </>
        );
      }}
    </Asked>
  );
}
