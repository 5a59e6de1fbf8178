import { useState } from 'preact/hooks';
import { type Certificate, type Listed, useTold } from '../api';
import { Asked, Badge, Search, Table } from '../pieces';
import { identity, span, time } from '../words';

export function CertificatesPage() {
  const told = useTold<Listed<Certificate>>('certificates', 10000);
  const [text, setText] = useState('');
  const left = (row: Certificate) => (row.not_after === null ? Number.NEGATIVE_INFINITY : row.not_after - Date.now());
  return (
    <Asked told={told}>
      {({ rows }) => (
        <>
          <div class="bar">
            <h1>Certificates</h1>
            <Search label="Identity or node" value={text} onInput={setText} />
            <span class="dim">that agents hold for their pods; renewed at two thirds of their life</span>
          </div>
          <Table
            name="Certificates"
            rows={rows.filter((row) => `${row.identity} ${row.node}`.includes(text.trim()))}
            id={(row) => `${row.node} ${row.identity}`}
            first={2}
            columns={[
              {
                title: 'Identity',
                key: (row) => row.identity,
                cell: (row) => <span title={row.identity}>{identity(row.identity)}</span>,
              },
              { title: 'Node', key: (row) => row.node },
              {
                title: 'Expires in',
                figure: true,
                key: (row) => -left(row),
                cell: (row) =>
                  row.not_after === null ? (
                    '–'
                  ) : (
                    <span class={left(row) < 0 ? 'bad' : ''}>{left(row) < 0 ? 'expired' : span(left(row))}</span>
                  ),
              },
              { title: 'Until (UTC)', key: (row) => time(row.not_after) },
              {
                title: 'State',
                key: (row) => row.state,
                cell: (row) => <Badge mood={row.state === 'valid' ? 'good' : 'bad'}>{row.state}</Badge>,
              },
              { title: 'Serial', key: (row) => row.serial, cell: (row) => <code>{row.serial}</code> },
            ]}
            empty={
              rows.length > 0
                ? 'No identity is called that.'
                : 'No agent holds a certificate: they are asked for when a pod joins the mesh.'
            }
          />
        </>
      )}
    </Asked>
  );
}
