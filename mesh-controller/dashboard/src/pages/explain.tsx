import { type Condition, type Explanation, type Flow, useTold } from '../api';
import { Asked, Badge, verdictMood } from '../pieces';
import { bytes, identity, security, service, time } from '../words';
import { endText } from './flows';

export function ExplainPage(props: { node: string; id: string }) {
  const { node, id } = props;
  const told = useTold<Explanation & { errors?: string[] }>(
    `explain/${encodeURIComponent(node)}/${encodeURIComponent(id)}`,
    0,
  );
  return (
    <>
      <div class="bar">
        <h1>
          Flow {id} on {node}
        </h1>
        <a href="#/flows">All flows</a>
      </div>
      <Asked told={told}>
        {(data) => (
          <>
            <p class="summary">{data.summary}</p>
            {data.flow && <Facts flow={data.flow} />}
            {data.nearest && (
              <section aria-label="Nearest rule">
                <h2>What would have permitted it</h2>
                <p>
                  Rule {data.nearest.rule} of <b>{data.nearest.policy}</b>, if these held:
                </p>
                <ul>
                  {data.nearest.missing.map((condition, index) => (
                    <li key={index}>
                      <ConditionText condition={condition} />
                    </li>
                  ))}
                </ul>
              </section>
            )}
            <section aria-label="Policies">
              <h2>Policies, in the order in which they were asked</h2>
              {data.policies.length === 0 && <div class="empty">None was asked: none applies to its destination.</div>}
              {data.policies.map((policy) => (
                <details key={policy.policy + policy.action} open={policy.decided}>
                  <summary>
                    <b>{policy.policy}</b> <Badge mood={policy.action === 'DENY' ? 'bad' : 'plain'}>{policy.action}</Badge>{' '}
                    <span class="dim">{policy.scope}</span> {policy.dry_run && <Badge>dry run</Badge>}{' '}
                    {policy.unknown && <Badge mood="bad">unknown to the agent</Badge>}{' '}
                    {policy.decided && <Badge mood="warn">decided</Badge>}
                  </summary>
                  {policy.rules.length === 0 && <p class="dim">It has no rules.</p>}
                  {policy.rules.map((rule) => (
                    <div key={rule.rule} class="rule">
                      Rule {rule.rule}: <Mark holds={rule.matched} /> {rule.matched ? 'matched' : 'did not match'}
                      {rule.clauses.map((clause, index) => (
                        <ul key={index} class={clause.matched ? '' : 'missing'}>
                          {clause.matches.map((alternative, place) =>
                            alternative.conditions.map((condition, at) => (
                              <li key={`${place}.${at}`}>
                                {place > 0 && at === 0 && <span class="dim">or </span>}
                                <Mark holds={condition.holds} /> <ConditionText condition={condition} />
                              </li>
                            )),
                          )}
                        </ul>
                      ))}
                    </div>
                  ))}
                </details>
              ))}
            </section>
          </>
        )}
      </Asked>
    </>
  );
}

function Facts({ flow }: { flow: Flow }) {
  const who = (end: Flow['source']) =>
    [endText(end), end.identity && `as ${identity(end.identity)}`, end.pod && end.address].filter(Boolean).join(', ');
  const facts: [string, string][] = [
    ['From', who(flow.source)],
    ['To', who(flow.destination)],
    ['Service', service(flow.service) || 'dialled by address'],
    ['Path', `${flow.path}, ${security(flow.security)}${flow.tls ? ` (${flow.tls})` : ''}`],
    ['Began, ended', `${time(flow.start)}, ${time(flow.end)} UTC`],
    ['Bytes', `${bytes(flow.sent)} sent, ${bytes(flow.received)} received`],
    ['Configuration', `generation ${flow.generation}`],
  ];
  if (flow.http) {
    const { http } = flow;
    facts.splice(3, 0, ['Request', `${http.method} ${http.path} at ${http.host}: ${http.status ?? 'no answer'}`]);
    if (http.route) {
      facts.push(['Route', http.route]);
    }
    if (http.trace_id) {
      facts.push(['Trace', http.trace_id]);
    }
  }
  if (flow.error) {
    facts.push(['Error', flow.error]);
  }
  return (
    <>
      <p>
        <Badge mood={verdictMood(flow.verdict)}>{flow.verdict}</Badge> {flow.reason}
      </p>
      <dl class="facts">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </>
  );
}

function Mark({ holds }: { holds: boolean }) {
  return <span class={holds ? 'good' : 'bad'}>{holds ? '✓' : '✗'}</span>;
}

function ConditionText({ condition }: { condition: Condition }) {
  return (
    <>
      <code>{condition.field}</code> {condition.values.join(', ')}{' '}
      <span class="dim">it had {condition.actual || 'nothing'}</span>
    </>
  );
}
