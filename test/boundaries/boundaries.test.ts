/**
 * Who may import whom, on resolved paths. The rules stand in .dependency-cruiser.mjs; here each of them meets a
 * planted violation in a tree of its own, so that a rule which no longer bites is seen, and the real tree is
 * cruised with the very command of `npm run boundaries`.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cruise, type ICruiseOptions, type ICruiseResult } from 'dependency-cruiser'
import t, { type Test } from 'tap'

const root = fileURLToPath(new URL('../..', import.meta.url))
const configFile = join(root, '.dependency-cruiser.mjs')

type Rule = { readonly name: string; readonly comment: string; readonly severity: string }
type Config = { readonly forbidden: readonly Rule[]; readonly options: ICruiseOptions }
const { default: config } = (await import(configFile)) as { readonly default: Config }
const FOLDERS = ['agent', 'coordinator', 'protocol', 'test']
/** The tree had more files than this when the rule was written; fewer means that the test looks in the wrong place. */
const FILES_MIN = 30

/**
 * One violation of each rule: the file and what it imports (ours by path, packages and `node:` by name). A list in
 * the third place is a chain: each file imports the next. Each is tried as a value, as a type, as `export from` and
 * as a dynamic import.
 */
const PLANTED: readonly (readonly [rule: string, file: string, ...chain: string[]])[] = [
  ['protocol-is-the-base', 'protocol/a.ts', 'coordinator/ports.ts'],
  ['protocol-is-the-base', 'protocol/a.ts', 'agent/apt/a.ts'],
  ['protocol-needs-only-valibot', 'protocol/a.ts', 'ws'],
  ['domain-imports-only-protocol', 'coordinator/domain/a.ts', 'coordinator/ports.ts'],
  ['domain-imports-only-protocol', 'coordinator/domain/a.ts', 'coordinator/driver.ts'],
  ['domain-imports-only-protocol', 'coordinator/domain/a.ts', 'coordinator/store/a.ts'],
  ['domain-imports-only-protocol', 'coordinator/domain/a.ts', 'valibot'],
  ['domain-reaches-no-node', 'coordinator/domain/a.ts', 'node:crypto'],
  ['domain-reaches-no-node', 'coordinator/domain/a.ts', 'node:fs/promises'],
  ['domain-reaches-no-node', 'coordinator/domain/a.ts', 'process'],
  ['domain-reaches-no-node', 'coordinator/domain/a.ts', 'protocol/a.ts', 'protocol/pin.ts', 'node:crypto'],
  ['domain-reaches-no-package', 'coordinator/domain/a.ts', 're2js'],
  ['domain-reaches-no-package', 'coordinator/domain/a.ts', 'protocol/a.ts', 'protocol/b.ts', 'execa'],
  ['parts-stand-alone', 'coordinator/api/a.ts', 'coordinator/store/a.ts'],
  ['parts-stand-alone', 'coordinator/store/a.ts', 'coordinator/sessions/a.ts'],
  ['parts-stand-alone', 'coordinator/sessions/a.ts', 'coordinator/change/a.ts'],
  ['parts-stand-alone', 'coordinator/change/a.ts', 'coordinator/lookup/a.ts'],
  ['parts-stand-alone', 'coordinator/lookup/a.ts', 'coordinator/chat/a.ts'],
  ['parts-stand-alone', 'coordinator/chat/a.ts', 'coordinator/api/a.ts'],
  ['parts-stand-alone', 'coordinator/api/a.ts', 'coordinator/config.ts'],
  ['parts-stand-alone', 'coordinator/store/a.ts', 'coordinator/app.ts'],
  ['only-app-composes', 'coordinator/driver.ts', 'coordinator/store/a.ts'],
  ['only-app-composes', 'coordinator/main.ts', 'coordinator/sessions/a.ts'],
  ['only-app-composes', 'coordinator/config.ts', 'coordinator/change/a.ts'],
  ['only-program-imports-app', 'coordinator/config.ts', 'coordinator/app.ts'],
  ['only-program-imports-app', 'coordinator/api/a.ts', 'coordinator/app.ts'],
  ['nothing-imports-a-program', 'coordinator/app.ts', 'coordinator/main.ts'],
  ['nothing-imports-a-program', 'agent/session/a.ts', 'agent/main.ts'],
  ['nothing-imports-a-program', 'agent/runner/a.ts', 'agent/runner/main.ts'],
  ['cli-imports-only-protocol', 'coordinator/cli/a.ts', 'coordinator/domain/a.ts'],
  ['cli-imports-only-protocol', 'coordinator/cli/a.ts', 'coordinator/config.ts'],
  ['client-imports-only-protocol', 'coordinator/client/a.ts', 'coordinator/ports.ts'],
  ['client-imports-only-protocol', 'coordinator/client/a.ts', 'coordinator/cli/a.ts'],
  ['only-clients-are-clients', 'coordinator/api/a.ts', 'coordinator/client/a.ts'],
  ['only-clients-are-clients', 'coordinator/app.ts', 'coordinator/client/a.ts'],
  ['web-imports-only-protocol', 'coordinator/web/a.ts', 'coordinator/domain/a.ts'],
  ['web-imports-only-protocol', 'coordinator/web/a.ts', 'coordinator/cli/a.ts'],
  ['web-runs-in-a-browser', 'coordinator/web/a.ts', 'node:fs'],
  ['web-runs-in-a-browser', 'coordinator/web/a.ts', 'ws'],
  ['clients-are-not-imported', 'coordinator/app.ts', 'coordinator/cli/a.ts'],
  ['clients-are-not-imported', 'agent/enrol.ts', 'coordinator/web/a.ts'],
  ['agent-knows-no-coordinator', 'agent/session/a.ts', 'coordinator/ports.ts'],
  ['agent-knows-no-coordinator', 'agent/runner/a.ts', 'coordinator/domain/a.ts'],
  ['coordinator-knows-no-agent', 'coordinator/app.ts', 'agent/disk/a.ts'],
  ['coordinator-knows-no-agent', 'coordinator/store/a.ts', 'agent/apt/a.ts'],
  ['runner-knows-no-session', 'agent/runner/a.ts', 'agent/session/a.ts'],
  ['runner-knows-no-session', 'agent/runner/a.ts', 'agent/enrol.ts'],
  ['session-knows-no-runner', 'agent/session/a.ts', 'agent/runner/a.ts'],
  ['session-knows-no-runner', 'agent/enrol.ts', 'agent/runner/a.ts'],
  ['shared-agent-code-knows-no-half', 'agent/apt/a.ts', 'agent/runner/a.ts'],
  ['shared-agent-code-knows-no-half', 'agent/disk/a.ts', 'agent/session/a.ts'],
  ['shared-agent-code-knows-no-half', 'agent/config.ts', 'agent/enrol.ts'],
  ['runner-reaches-no-network', 'agent/runner/a.ts', 'node:net'],
  ['runner-reaches-no-network', 'agent/runner/a.ts', 'agent/disk/a.ts', 'ws'],
  ['sqlite-only-in-store', 'coordinator/app.ts', 'better-sqlite3'],
  ['nothing-imports-tests', 'agent/session/a.ts', 'test/demo/help.ts'],
  ['nothing-imports-tests', 'coordinator/app.ts', 'test/demo/help.ts'],
  ['no-development-packages', 'coordinator/app.ts', 'fast-check'],
  ['no-undeclared-packages', 'coordinator/app.ts', 'safe-regex'],
  ['no-unresolvable', 'coordinator/app.ts', 'coordinator/not-there'],
  ['no-cycles', 'coordinator/domain/a.ts', 'coordinator/domain/b.ts', 'coordinator/domain/a.ts'],
]

/** What must stay allowed: a rule that forbids too much sends people around it. */
const ALLOWED: readonly (readonly [file: string, ...chain: string[]])[] = [
  ['protocol/a.ts', 'valibot'],
  ['protocol/pin.ts', 'node:crypto'],
  ['coordinator/domain/a.ts', 'protocol/a.ts', 'valibot'],
  ['coordinator/store/a.ts', 'coordinator/ports.ts', 'coordinator/domain/a.ts'],
  ['coordinator/store/a.ts', 'better-sqlite3'],
  ['coordinator/api/a.ts', 'coordinator/driver.ts', 'coordinator/domain/a.ts', 'protocol/a.ts'],
  ['coordinator/api/a.ts', 'coordinator/api/b.ts', 'fastify'],
  ['coordinator/main.ts', 'coordinator/program.ts', 'coordinator/app.ts', 'coordinator/store/a.ts', 'protocol/pin.ts'],
  ['coordinator/main.ts', 'coordinator/config.ts', 'smol-toml'],
  ['coordinator/chat/a.ts', 'coordinator/client/a.ts', 'protocol/a.ts'],
  ['coordinator/cli/a.ts', 'coordinator/client/a.ts', 'ws'],
  ['coordinator/cli/smith-patch.ts', 'coordinator/cli/smith.ts', 'protocol/a.ts'],
  ['coordinator/web/a.ts', 'preact'],
  ['coordinator/web/a.ts', 'protocol/a.ts', 'valibot'],
  ['agent/main.ts', 'agent/session/a.ts', 'agent/apt/a.ts', 'protocol/a.ts'],
  ['agent/main.ts', 'agent/config.ts', 'agent/disk/a.ts', 'node:fs'],
  ['agent/session/a.ts', 'ws'],
  ['agent/runner/main.ts', 'agent/runner/a.ts', 'agent/config.ts', 'protocol/a.ts'],
  ['agent/runner/a.ts', 'execa'],
  ['test/store/a.test.ts', 'coordinator/store/a.ts'],
  ['test/demo/start.ts', 'test/demo/help.ts', 'coordinator/app.ts'],
  ['test/demo/start.ts', 'fast-check'],
]

const FORMS: Readonly<Record<string, (to: string) => string>> = {
  value: (to) => `import * as name from '${to}'\nexport const used = name\n`,
  type: (to) => `import type * as name from '${to}'\nexport type Used = typeof name\n`,
  reexport: (to) => `export * from '${to}'\n`,
  dynamic: (to) => `export const used = () => import('${to}')\n`,
}

const isOurs = (name: string) => /^(agent|coordinator|protocol|test)\//.test(name)

/** Writes a chain of imports as a tree of its own; what is not ours is imported by its bare name. */
function plant(t: Test, chain: readonly string[], form: (to: string) => string): string {
  const tree = t.testdir({ 'package.json': readFileSync(join(root, 'package.json'), 'utf8') })
  for (const [index, name] of chain.entries()) {
    const file = join(tree, name)
    // The end of a chain that returns to its first file is written already.
    if (!isOurs(name) || !name.endsWith('.ts') || existsSync(file)) continue
    const next = chain[index + 1]
    const to = next !== undefined && isOurs(next) ? `./${relative(dirname(file), join(tree, next))}` : next
    mkdirSync(dirname(file), { recursive: true })
    writeFileSync(file, to === undefined ? 'export const end = 1\n' : form(to))
  }
  return tree
}

/** The names of the rules that the tree violates. */
async function violatedRules(tree: string): Promise<string[]> {
  const folders = FOLDERS.filter((name) => existsSync(join(tree, name)))
  const options = { ...config.options, baseDir: tree, validate: true, ruleSet: { forbidden: config.forbidden } }
  const { output } = await cruise(folders, options as ICruiseOptions)
  const { violations } = (output as ICruiseResult).summary
  return [...new Set(violations.map((violation) => violation.rule.name))].toSorted()
}

t.test('[TDY-1] every rule says why, is an error, and meets a planted violation', async (t) => {
  const planted = new Set(PLANTED.map(([rule]) => rule))
  for (const rule of config.forbidden) {
    t.match(rule.comment, /^.{30,}\.$/s, `${rule.name} has its reason as a sentence`)
    t.equal(rule.severity, 'error', `${rule.name} fails the check`)
    t.ok(planted.has(rule.name) || rule.name === 'no-orphans', `${rule.name} has a planted violation`)
  }
})

for (const [form, write] of Object.entries(FORMS)) {
  t.test(`[TDY-1] each planted violation is found: ${form} imports`, async (t) => {
    const done = new Set<string>()
    for (const [rule, ...chain] of PLANTED) {
      // How an import is written is the parser's affair: one violation of each rule shows it.
      if (form !== 'value' && done.has(rule)) continue
      done.add(rule)
      // The type of a development package vanishes before anything runs.
      if (form === 'type' && rule === 'no-development-packages') continue
      const tree = plant(t, chain, write)
      t.ok((await violatedRules(tree)).includes(rule), `${rule}: ${chain.join(' -> ')}`)
    }
  })
}

t.test('[TDY-1] what the house allows violates nothing', async (t) => {
  for (const chain of ALLOWED) {
    const tree = plant(t, chain, (to) => `import * as name from '${to}'\nexport const used = name\n`)
    t.same(await violatedRules(tree), [], chain.join(' -> '))
  }
})

t.test('[TDY-1] a file that nobody imports and that imports nobody is found, a program or a test is not', async (t) => {
  t.same(await violatedRules(plant(t, ['agent/disk/alone.ts'], String)), ['no-orphans'])
  for (const file of [
    'agent/main.ts',
    'coordinator/cli/smith-status.ts',
    'test/store/a.test.ts',
    'test/demo/start.ts',
  ]) {
    t.same(await violatedRules(plant(t, [file], String)), [], file)
  }
})

t.test('[TDY-1] the tree keeps every rule, and the tool sees every file and its imports', async (t) => {
  const args = [join(root, 'node_modules/.bin/depcruise'), '--config', configFile, '--output-type', 'json', ...FOLDERS]
  const done = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28 })
  if (!done.stdout.startsWith('{')) throw new Error(`depcruise failed: ${done.stderr}${done.stdout}`)
  const { modules, summary } = JSON.parse(done.stdout) as ICruiseResult
  t.same(
    summary.violations.map((violation) => `${violation.rule.name}: ${violation.from} -> ${violation.to}`),
    [],
    'no violation',
  )
  const seen = new Set(modules.map((module) => module.source))
  const files = FOLDERS.flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.ts'))
      .map((name) => join(folder, name)),
  )
  t.same(
    files.filter((file) => !seen.has(file)),
    [],
    'every file was seen',
  )
  t.ok(files.length > FILES_MIN, `${files.length} files`)
  const imports = modules.flatMap((module) => module.dependencies)
  t.ok(imports.length > files.length, `${imports.length} imports were seen`)
  t.ok(
    imports.some((dependency) => dependency.dependencyTypes.includes('type-only')),
    'type-only imports were seen',
  )
})
