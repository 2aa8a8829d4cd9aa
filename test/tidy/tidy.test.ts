/**
 * The house rules, as tests: rules and tests claim each other, words are the glossary's, nothing is left open or
 * swallowed, and the linter's own rules bite. Each check meets a planted text that it must find.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { type Source, bannedWordsOf, claimsOf, coverage, scan } from './scan.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const read = (path: string) => readFileSync(join(root, path), 'utf8')
const FOLDERS = ['agent', 'coordinator', 'protocol', 'systemd', 'test', 'docs']
/** What is not held against a file, and why. */
const EXCEPTIONS: readonly { readonly path: string; readonly problem: RegExp; readonly reason: string }[] = [
  { path: 'docs/GLOSSARY.md', problem: /is not ours/, reason: 'The glossary names the words that are not to be used.' },
  {
    path: 'docs/OPERATIONS.md',
    problem: /the word job/,
    reason: 'The word is a key of Prometheus (job_name).',
  },
  {
    path: 'test/hosts/faults.test.ts',
    problem: /the word job/,
    reason: 'The word is a verb of systemctl (list-jobs).',
  },
  { path: 'test/hosts/groups.ts', problem: /the word job/, reason: "The word is a property of tap's tests." },
  {
    path: 'test/hosts/reboot.test.ts',
    problem: /the word job/,
    reason: 'The word is systemd’s (list-jobs, JobTimeoutSec) and tap’s (jobs).',
  },
  {
    path: 'agent/runner/shutdown.ts',
    problem: /the word job/,
    reason: 'The word is part of a directive of systemd (JobTimeoutSec).',
  },
  { path: 'test/tidy/scan.ts', problem: /./, reason: 'The patterns find themselves.' },
  { path: 'test/tidy/tidy.test.ts', problem: /./, reason: 'The planted texts are what is looked for.' },
]

const sources: readonly Source[] = FOLDERS.filter((folder) => existsSync(join(root, folder))).flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .map((name) => join(folder, name))
    .filter(
      (path) => /\.(tsx?|mjs|md)$/.test(path) && !path.includes('node_modules') && statSync(join(root, path)).isFile(),
    )
    .toSorted()
    .map((path) => ({ path, text: read(path) })),
)
// A contract suite holds tests that several test files run.
const tests = sources.filter(({ path }) => path.endsWith('.test.ts') || /^test\/.*\/contract\.ts$/.test(path))
const banned = bannedWordsOf(read('docs/GLOSSARY.md'))

t.test('[TDY-2] every rule of SPEC.md is claimed by a test, and every claim is of a rule', async (t) => {
  t.ok(tests.length > 5, `${tests.length} test files were read`)
  t.same(coverage(read('docs/SPEC.md'), tests), [])
})

t.test('[TDY-2] a rule without a test, a test without a rule, and a rule that stands twice are found', async (t) => {
  const spec = '- **RUN-1** A rule.\n- **RUN-2** Another.\n- **RUN-2** Once more.\n- **RUN-3** no sentence\n'
  const planted = [
    { path: 'a.test.ts', text: ['RUN-2', 'RUN-3', 'RUN-9'].map((id) => `t.test('[${id}] x')`).join('\n') },
    { path: 'b.test.ts', text: "t.test('no rule')" },
  ]
  t.same(coverage(spec, planted), [
    'RUN-2 stands twice in docs/SPEC.md',
    'RUN-1 is claimed by no test',
    'RUN-9 is claimed by a.test.ts and is no rule of docs/SPEC.md',
    'RUN-3 is no whole sentence',
    'b.test.ts claims no rule',
  ])
  t.same(claimsOf('// see [RUN-4] for more'), [], 'a comment is no claim')
})

t.test('[TDY-3] no file breaks a house rule', async (t) => {
  t.ok(sources.length > 30 && banned.length > 5, `${sources.length} files, ${banned.length} words`)
  const findings = sources
    .flatMap((source) => scan(source, banned))
    .filter(
      (finding) => !EXCEPTIONS.some(({ path, problem }) => path === finding.path && problem.test(finding.problem)),
    )
  t.same(
    findings.map(({ path, line, problem }) => `${path}:${line}: ${problem}`),
    [],
  )
})

const HEAD = '/** What it decides. */\n'
const PLANTED: readonly (readonly [what: string, path: string, text: string, problem: RegExp])[] = [
  ['something left open', 'docs/a.md', 'One TODO: later', /left open/],
  ['a path of one computer', 'docs/a.md', 'see /work/main', /means nothing/],
  ['a banned word', 'agent/a.ts', `${HEAD}const job = 1`, /the word job is not ours/],
  ['a banned word inside a name', 'agent/a.ts', `${HEAD}const nextJobs = 1`, /the word job is not ours/],
  ['a banned word in a document', 'docs/a.md', 'The Lease ends.', /the word lease is not ours/],
  ['a name that is not in kebab-case', 'agent/runLog.ts', HEAD, /kebab-case/],
  ['a file without its opening comment', 'agent/a.ts', "import t from 'tap'\n", /does not open with a comment/],
  ['a check switched off', 'agent/a.ts', `${HEAD}// @ts-ignore`, /switches a check off/],
  ['a linter switched off', 'agent/a.ts', `${HEAD}// oxlint-disable-next-line`, /switches a check off/],
  ['a test that runs alone', 'test/a.test.ts', `${HEAD}t.only(x)`, /switches a check off/],
  ['an empty catch', 'agent/a.ts', `${HEAD}try { a() } catch {}`, /swallows/],
  ['a catch with only a comment', 'agent/a.ts', `${HEAD}try { a() } catch (e) {\n  // never mind\n}`, /swallows/],
  ['what an idle agent carries for nothing', 'agent/a.ts', `${HEAD}import { execa } from 'execa'`, /before it is used/],
  ['an ignored rejection', 'agent/a.ts', `${HEAD}a().catch(() => {})`, /swallows/],
  ['a rejection made undefined', 'agent/a.ts', `${HEAD}a().catch(() => undefined)`, /swallows/],
]

for (const [what, path, text, problem] of PLANTED) {
  t.test(`[TDY-3] ${what} is found`, async (t) => {
    const findings = scan({ path, text }, banned)
    t.equal(findings.length, 1)
    t.match(findings[0]?.problem, problem)
  })
}

t.test('[TDY-3] what is in order is left alone', async (t) => {
  const good = [
    { path: 'agent/run-log.ts', text: `${HEAD}try { a() } catch (cause) { throw new Error('x', { cause }) }` },
    { path: 'agent/a.ts', text: `${HEAD}// oxlint-disable-next-line no-control-regex -- they are what is looked for` },
    { path: 'agent/a.ts', text: `${HEAD}const { execa } = await import('execa')` },
    { path: 'agent/a.mjs', text: '#!/usr/bin/env node\n// What it does.\n' },
    { path: 'docs/a.md', text: 'A release. The jobless. /home/works/x' },
  ]
  for (const source of good) t.same(scan(source, banned), [], source.path)
})

/** Runs the linter over one planted file, at a path of the tree, with the tree's own configuration. */
function lint(folder: string, path: string, text: string): string {
  mkdirSync(dirname(join(folder, path)), { recursive: true })
  writeFileSync(join(folder, '.oxlintrc.json'), read('.oxlintrc.json'))
  writeFileSync(join(folder, path), text)
  // tap puts its loaders into the environment of every child, and the linter can't be started with them.
  const command = [
    '-u',
    'NODE_OPTIONS',
    process.execPath,
    join(root, 'node_modules/.bin/oxlint'),
    '--deny-warnings',
    path,
  ]
  const done = spawnSync('env', command, { cwd: folder, encoding: 'utf8' })
  return done.stdout + done.stderr
}

const LINTED: readonly (readonly [what: string, line: string, rule: string])[] = [
  ['the clock', 'export const at = () => Date.now()', 'no-restricted-globals'],
  ['a new date', 'export const at = () => new Date()', 'no-restricted-globals'],
  ['randomness', 'export const some = () => Math.random()', 'no-restricted-properties'],
  ['a timer', 'export const wait = () => setTimeout(() => 1, 1)', 'no-restricted-globals'],
  ['the console', "export const say = () => console.log('x')", 'no-console'],
  ['the process', 'export const home = () => process.cwd()', 'no-restricted-globals'],
  ['a promise', 'export const later = () => Promise.resolve(1)', 'no-restricted-globals'],
  ['an async function', 'export async function later(): Promise<number> {\n  return 1\n}', 'no-async-await'],
  ['the machine’s locale', "export const order = (a: string) => a.localeCompare('b')", 'no-restricted-properties'],
]

t.test('[TDY-4] the core can’t use a clock, a timer, randomness, a promise, the console or the process', async (t) => {
  for (const [what, line, rule] of LINTED) {
    const found = lint(t.testdir({}), 'coordinator/domain/planted.ts', `/** Planted. */\n${line}\n`)
    t.match(found, rule, `${what} is found`)
  }
})

t.test('[TDY-5] the linter finds long functions, long files, default exports and any', async (t) => {
  const lines = (count: number) => Array.from({ length: count }, (_, index) => `  used(${index})`).join('\n')
  const used = 'export const used = (value: number) => value\n'
  const cases = [
    ['max-lines-per-function', `${used}export function long() {\n${lines(70)}\n}\n`],
    ['max-lines', `${used}${lines(500)}\n`],
    ['no-default-export', 'export default 1\n'],
    ['no-explicit-any', 'export const value: any = 1\n'],
    ['no-empty', 'export function quiet() {\n  try {\n    quiet()\n  } catch {}\n}\n'],
  ] as const
  for (const [rule, text] of cases) {
    t.match(lint(t.testdir({}), 'agent/planted.ts', text), new RegExp(`\\b${rule}\\b`), `${rule} bites`)
  }
  t.notMatch(lint(t.testdir({}), 'agent/planted.ts', `${used}export function fits() {\n${lines(68)}\n}\n`), 'max-lines')
})

/** Runs .ci/run in a folder of its own with an npm that answers with the given TAP and statuses. */
function runCi(folder: string, tap: string, statuses: { readonly test: number; readonly check: number }) {
  mkdirSync(join(folder, '.ci'))
  mkdirSync(join(folder, 'bin'))
  for (const name of ['run', 'report.mjs']) writeFileSync(join(folder, '.ci', name), read(`.ci/${name}`))
  writeFileSync(join(folder, 'tap.txt'), tap)
  const npm = `#!/bin/sh\nif [ "$1" = test ]; then node .ci/report.mjs <tap.txt; exit ${statuses.test}; fi\nexit ${statuses.check}\n`
  writeFileSync(join(folder, 'bin/npm'), npm, { mode: 0o755 })
  const path = `${join(folder, 'bin')}:${process.env['PATH'] ?? ''}`
  const done = spawnSync('bash', [join(folder, '.ci/run')], { encoding: 'utf8', env: { ...process.env, PATH: path } })
  return { status: done.status, last: done.stdout.trimEnd().split('\n').at(-1), output: done.stdout }
}

const TAP_FILE = '# Subtest: a.test.ts\n    # Subtest: [X-1] a\n        ok 1 - one\n        ok 2 - two\n        1..2\n'
const TAP_GOOD = `TAP version 14\n${TAP_FILE}    ok 1 - [X-1] a # time=1ms\n    ok 2 - [X-2] b # SKIP no dpkg\n    1..2\nok 1 - a.test.ts # time=2ms\n1..1\n`
const TAP_BAD = `TAP version 14\n${TAP_FILE}    ok 1 - [X-1] a\n        not ok 1 - why\n    not ok 2 - [X-2] b\n    1..2\nnot ok 1 - a.test.ts\n1..1\n`
const TAP_CRASH = 'TAP version 14\n# Subtest: a.test.ts\n    1..0 # no tests found\nnot ok 1 - a.test.ts\n1..1\n'
const CI: readonly (readonly [what: string, tap: string, test: number, check: number, last: string, status: number])[] =
  [
    ['all is green', TAP_GOOD, 0, 0, '2 passed, 0 failed, 1 skipped', 0],
    ['a test fails', TAP_BAD, 1, 0, '2 passed, 1 failed, 0 skipped', 1],
    ['a file crashes', TAP_CRASH, 1, 0, '1 passed, 1 failed, 0 skipped', 1],
    ['the check fails', TAP_GOOD, 0, 1, '1 passed, 1 failed, 1 skipped', 1],
    ['no test ran', 'TAP version 14\n1..0\n', 0, 0, '1 passed, 1 failed, 0 skipped', 1],
    ['the tests fail and none of them says so', TAP_GOOD, 1, 0, '2 passed, 1 failed, 1 skipped', 1],
  ]

for (const [what, tap, test, check, last, status] of CI) {
  t.test(`[TDY-6] .ci/run counts and ends as it should when ${what}`, async (t) => {
    const done = runCi(t.testdir({}), tap, { test, check })
    t.equal(done.last, last, done.output)
    t.equal(done.status, status)
  })
}

t.test('[TDY-6] .ci/run is executable, and a failed test is shown', async (t) => {
  t.ok((statSync(join(root, '.ci/run')).mode & 0o111) === 0o111, 'executable by all')
  t.match(runCi(t.testdir({}), TAP_BAD, { test: 1, check: 0 }).output, /FAILED \[X-2\] b\n.*not ok 1 - why/)
})
