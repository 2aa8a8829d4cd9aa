// Who may import whom, checked on resolved paths. Each rule's comment is its reason: it is shown with the violation.
// test/boundaries/boundaries.test.ts plants a violation of every rule and sees that it bites.
//
// TypeScript 7 has no compiler API, so the default parser sees "0 modules" and finds nothing wrong; swc sees all
// imports, `import type` among them. The test fails when too few modules were seen.
import { builtinModules } from 'node:module'

const OURS = '^(agent|coordinator|protocol|test)/'
const PARTS = '(store|sessions|api|change|chat|lookup|reports)'
const RUNNER = '^agent/runner/'
const SESSION_HALF = '^agent/(session/|(?!config\\.ts$)[^/]+\\.ts$)'
const NODE = `^node:|^(${builtinModules.filter((name) => /^[a-z]/.test(name) && !name.includes(':')).join('|')})$`
const NETWORK =
  '^(node:)?(net|http|https|http2|tls|dgram|dns|dns/promises|inspector)$|node_modules/(ws|undici|fastify)/'
const PROGRAMS = '^(agent/(runner/)?main|coordinator/main|coordinator/cli/smith[a-z-]*)\\.ts$'

const forbid = (name, comment, from, to) => ({ name, severity: 'error', comment, from, to })

export default {
  forbidden: [
    forbid(
      'protocol-is-the-base',
      'Both programs load protocol/: what it imported of one of them, the other would load too.',
      { path: '^protocol/' },
      { path: OURS, pathNot: '^protocol/' },
    ),
    forbid(
      'protocol-needs-only-valibot',
      'The core reaches the schemas, and the idle agent pays for each package in memory: valibot is small and pure.',
      { path: '^protocol/' },
      { dependencyTypes: ['npm', 'npm-dev', 'npm-optional', 'npm-peer'], pathNot: 'node_modules/valibot/' },
    ),
    forbid(
      'domain-imports-only-protocol',
      'The core decides from its state and the event alone; whoever composes it passes everything else in.',
      { path: '^coordinator/domain/' },
      { path: `${OURS}|node_modules/`, pathNot: '^(coordinator/domain|protocol)/' },
    ),
    forbid(
      'domain-reaches-no-node',
      'A clock, a file or a random number within reach of the core, at any distance, ends the simulator’s replay.',
      { path: '^coordinator/domain/' },
      { path: NODE, reachable: true },
    ),
    forbid(
      'domain-reaches-no-package',
      'A package can hide a clock or a timer. Through protocol/ the core reaches valibot, which has neither.',
      { path: '^coordinator/domain/' },
      { path: 'node_modules/', pathNot: 'node_modules/valibot/', reachable: true },
    ),
    forbid(
      'parts-stand-alone',
      'Store, sessions, api, change, chat, lookup and reports meet only in app.ts, over ports: each can be replaced and tested alone.',
      { path: `^coordinator/${PARTS}/` },
      {
        path: OURS,
        pathNot: [
          '^coordinator/$1/',
          '^coordinator/(domain|client)/',
          '^coordinator/(ports|driver)\\.ts$',
          '^protocol/',
        ],
      },
    ),
    forbid(
      'only-app-composes',
      'One file says what is plugged into what; a second one would be a second truth.',
      { path: '^coordinator/', pathNot: `^coordinator/(app\\.ts$|${PARTS}/)` },
      { path: `^coordinator/${PARTS}/` },
    ),
    forbid(
      'only-program-imports-app',
      'What imported the composition would start to depend on all of it.',
      { path: OURS, pathNot: '^(coordinator/program\\.ts$|test/)' },
      { path: '^coordinator/app\\.ts$' },
    ),
    forbid(
      'nothing-imports-a-program',
      'Loading a program’s first file starts it.',
      { path: OURS },
      { path: PROGRAMS, pathNot: '^coordinator/cli/smith\\.ts$' },
    ),
    forbid(
      'cli-imports-only-protocol',
      'The CLI speaks HTTP as any client does; what it could import from the coordinator no other client would have.',
      { path: '^coordinator/cli/' },
      { path: OURS, pathNot: '^(coordinator/(cli|client)|protocol)/' },
    ),
    forbid(
      'client-imports-only-protocol',
      'What the CLI and the bot share speaks HTTP as any client does, and knows neither of them.',
      { path: '^coordinator/client/' },
      { path: OURS, pathNot: '^(coordinator/client|protocol)/' },
    ),
    forbid(
      'only-clients-are-clients',
      'What is inside the coordinator asks it directly; only the CLI and the bot go over its interface.',
      { path: OURS, pathNot: '^(coordinator/(cli|chat|client|config)|test)' },
      { path: '^coordinator/client/' },
    ),
    forbid(
      'web-imports-only-protocol',
      'The dashboard runs in a browser and speaks HTTP as any client does.',
      { path: '^coordinator/web/' },
      { path: OURS, pathNot: '^(coordinator/web|protocol)/' },
    ),
    forbid(
      'web-runs-in-a-browser',
      'A browser has no modules of Node, and every package is loaded by everybody who opens the page.',
      { path: '^coordinator/web/' },
      { path: `${NODE}|node_modules/`, pathNot: 'node_modules/(preact|@preact/signals|valibot)/' },
    ),
    forbid(
      'clients-are-not-imported',
      'The coordinator must not depend on one of its clients.',
      { path: OURS, pathNot: '^(coordinator/(cli|web)|test)/' },
      { path: '^coordinator/(cli|web)/' },
    ),
    forbid(
      'agent-knows-no-coordinator',
      'They are two programs on two machines, and meet in protocol/.',
      { path: '^agent/' },
      { path: '^coordinator/' },
    ),
    forbid(
      'coordinator-knows-no-agent',
      'They are two programs on two machines, and meet in protocol/.',
      { path: '^coordinator/' },
      { path: '^agent/' },
    ),
    forbid(
      'runner-knows-no-session',
      'The root half trusts nothing that the network half made; they meet in files only.',
      { path: RUNNER },
      { path: SESSION_HALF },
    ),
    forbid(
      'session-knows-no-runner',
      'The network half has no privilege; what it imported of the root half would run without its rights.',
      { path: SESSION_HALF },
      { path: RUNNER },
    ),
    forbid(
      'shared-agent-code-knows-no-half',
      'agent/apt, agent/disk and agent/config.ts are used by both halves, so one half must not come with them.',
      { path: '^agent/((apt|disk)/|config\\.ts$)' },
      { path: [RUNNER, SESSION_HALF] },
    ),
    forbid(
      'runner-reaches-no-network',
      'The runner is root and must not listen or call out; apt does its own fetching.',
      { path: RUNNER },
      { path: NETWORK, reachable: true },
    ),
    forbid(
      'sqlite-only-in-store',
      'The store is an interface with a contract suite; SQL elsewhere would tie smith to one database.',
      { path: OURS, pathNot: '^(coordinator/store|test)/' },
      { path: 'node_modules/(better-sqlite3|@types/better-sqlite3)/' },
    ),
    forbid(
      'nothing-imports-tests',
      'What ships must not need its tests.',
      { path: OURS, pathNot: '^test/' },
      { path: '^test/' },
    ),
    forbid(
      'no-development-packages',
      'What ships is installed without the development packages.',
      // The dashboard is shipped as a bundle, its packages in it.
      { path: '^(agent|coordinator|protocol)/', pathNot: '^coordinator/web/' },
      { dependencyTypes: ['npm-dev'], dependencyTypesNot: ['npm', 'type-only'], pathNot: 'node_modules/@types/' },
    ),
    forbid(
      'no-undeclared-packages',
      'A package that package.json does not name can vanish with the one that brought it.',
      { path: OURS },
      {
        dependencyTypes: ['npm-no-pkg', 'npm-unknown'],
      },
    ),
    forbid(
      'no-unresolvable',
      'An import that leads nowhere fails when its line is reached, which may be in mid-run.',
      { path: OURS },
      {
        couldNotResolve: true,
      },
    ),
    forbid(
      'no-cycles',
      'Modules in a cycle can’t be understood, tested or loaded one without the other.',
      { path: OURS },
      { circular: true },
    ),
    forbid(
      'no-orphans',
      'A file that imports nothing and that nothing imports is dead, or its import is misspelt.',
      {
        orphan: true,
        path: OURS,
        // node-version.mjs is loaded by the programs' first line, before any import.
        pathNot: [
          PROGRAMS,
          '^coordinator/cli/node-version\\.mjs$',
          '\\.test\\.ts$',
          '^test/(demo|sim|bench|hosts)/[^/]+\\.ts$',
        ],
      },
      {},
    ),
  ],
  options: {
    parser: 'swc',
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '^(dist|\\.tap)/' },
    moduleSystems: ['es6'],
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'node', 'default'],
      extensions: ['.ts', '.tsx', '.mjs', '.js'],
    },
    skipAnalysisNotInRules: false,
  },
}
