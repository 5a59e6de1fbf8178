// The frame: navigation, and the page that the address names.

import { render } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { takeToken } from './api';
import { AgentsPage } from './pages/agents';
import { CertificatesPage } from './pages/certificates';
import { ExplainPage } from './pages/explain';
import { FlowsPage } from './pages/flows';
import { GraphPage } from './graph/page';
import { ServicePageView } from './pages/service';
import { ServicesPage } from './pages/services';
import { WorkloadsPage } from './pages/workloads';
import './style.css';

const TABS = [
  ['graph', 'Graph'],
  ['workloads', 'Workloads'],
  ['services', 'Services'],
  ['flows', 'Flows'],
  ['certificates', 'Certificates'],
  ['agents', 'Agents'],
] as const;

function usePlace(): { parts: string[]; query: string } {
  const read = () => {
    const [path, query] = location.hash.replace(/^#\/?/, '').split('?');
    return { parts: (path || 'graph').split('/').map(decodeURIComponent), query: query ?? '' };
  };
  const [place, setPlace] = useState(read);
  useEffect(() => {
    const moved = () => {
      takeToken();
      setPlace(read());
    };
    addEventListener('hashchange', moved);
    return () => removeEventListener('hashchange', moved);
  }, []);
  return place;
}

function Page() {
  const { parts, query } = usePlace();
  const [first, second, third] = parts;
  const tab = first === 'service' ? 'services' : first === 'explain' ? 'flows' : first;
  useEffect(() => {
    document.title = `nodemesh: ${tab}`;
  }, [tab]);
  return (
    <>
      <header>
        <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), document.getElementById('main')?.focus())}>
          To the content
        </a>
        <b>nodemesh</b>
        <nav aria-label="Pages">
          {TABS.map(([name, title]) => (
            <a key={name} href={`#/${name}`} aria-current={tab === name ? 'page' : undefined}>
              {title}
            </a>
          ))}
        </nav>
      </header>
      <main id="main" tabIndex={-1}>
        {first === 'graph' && <GraphPage />}
        {first === 'workloads' && <WorkloadsPage />}
        {first === 'services' && <ServicesPage />}
        {first === 'service' && second && third && <ServicePageView namespace={second} host={third} />}
        {first === 'flows' && <FlowsPage query={query} />}
        {first === 'explain' && second && third && <ExplainPage node={second} id={third} />}
        {first === 'certificates' && <CertificatesPage />}
        {first === 'agents' && <AgentsPage />}
        {!TABS.some(([name]) => name === tab) && <div class="empty">There is no such page.</div>}
      </main>
    </>
  );
}

takeToken();
const place = document.getElementById('page');
if (place) {
  render(<Page />, place);
}
