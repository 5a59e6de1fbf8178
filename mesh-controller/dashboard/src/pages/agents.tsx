import { type Agent, type Agents, useTold } from '../api';
import { Asked, Badge, Table } from '../pieces';
import { span, time } from '../words';

export function AgentsPage() {
  const told = useTold<Agents>('agents');
  return (
    <Asked told={told}>
      {({ rows, controllers }) => {
        const newest = Math.max(0, ...rows.map((row) => row.generation));
        // A node that one replica misses may be another's.
        const linked = new Set(controllers.flatMap((controller) => controller.agents));
        const missing = new Map(
          controllers
            .flatMap((controller) => controller.missing)
            .filter((one) => !linked.has(one.node))
            .map((one) => [one.node, one]),
        );
        const problems = [...new Set(controllers.flatMap((controller) => controller.problems))];
        return (
          <>
            <div class="bar">
              <h1>Agents</h1>
              {controllers.map((controller, index) => (
                <span key={index} class="dim">
                  controller {controller.version}: {controller.workloads} workloads, {controller.services} services,{' '}
                  {controller.policies} policies, {controller.agents.length} agents
                </span>
              ))}
            </div>
            {[...missing.values()].map((one) => (
              <div key={one.node} class="note bad">
                Node {one.node} has {one.pods} pods of the mesh and no agent that is connected
                {one.redirected > 0 && `; ${one.redirected} of them refuse connections until it runs`}.
              </div>
            ))}
            <Table
              name="Agents"
              rows={rows}
              id={(row) => row.node}
              columns={[
                { title: 'Node', key: (row) => row.node },
                { title: 'State', key: (row) => state(row)[1], cell: (row) => <Badge mood={state(row)[0]}>{state(row)[1]}</Badge> },
                { title: 'Version', key: (row) => row.version },
                {
                  title: 'Configuration',
                  figure: true,
                  key: (row) => row.generation,
                  hint: 'Counts the changes that the agent has accepted since it started; agents count by themselves',
                  cell: (row) => <span title={`the highest is ${newest}`}>{row.generation}</span>,
                },
                { title: 'Workloads', figure: true, key: (row) => row.workloads },
                { title: 'Services', figure: true, key: (row) => row.services },
                { title: 'Policies', figure: true, key: (row) => row.policies },
                {
                  title: 'Pods',
                  figure: true,
                  key: (row) => row.redirected,
                  cell: (row) => (
                    <span class={row.failed > 0 ? 'bad' : ''}>
                      {row.redirected}
                      {row.pending > 0 && ` + ${row.pending} pending`}
                      {row.failed > 0 && ` + ${row.failed} failed`}
                    </span>
                  ),
                },
                { title: 'Connections', figure: true, key: (row) => row.connections },
                { title: 'Tunnels', figure: true, key: (row) => row.tunnels },
                {
                  title: 'Up',
                  figure: true,
                  key: (row) => (row.started === null ? 0 : Date.now() - row.started),
                  cell: (row) => (
                    <span title={time(row.started)}>{row.started === null ? '–' : span(Date.now() - row.started)}</span>
                  ),
                },
              ]}
              empty={
                <>
                  No agent is connected. <code>meshctl check</code> says whether the mesh is installed on the nodes.
                </>
              }
            />
            {rows.flatMap((row) => [
              ...row.wrong.map((wrong) => (
                <div key={`${row.node} ${wrong}`} class="note bad">
                  {row.node}: {wrong}
                </div>
              )),
              row.last_nack && (
                <div key={`${row.node} nack`} class="note bad">
                  {row.node} refused a configuration: {row.last_nack}
                </div>
              ),
            ])}
            {problems.length > 0 && (
              <section aria-label="Problems">
                <h2>What of the configuration is not honoured</h2>
                <ul>
                  {problems.slice(0, 200).map((problem) => (
                    <li key={problem}>{problem}</li>
                  ))}
                </ul>
              </section>
            )}
          </>
        );
      }}
    </Asked>
  );
}

function state(row: Agent): ['good' | 'bad' | 'warn', string] {
  if (row.draining) {
    return ['warn', 'draining'];
  }
  if (row.not_ready) {
    return ['bad', `not ready: ${row.not_ready}`];
  }
  if (row.from_disk) {
    return ['warn', 'configuration from disk'];
  }
  return ['good', row.telemetry_off ? 'ready, telemetry off' : 'ready'];
}
