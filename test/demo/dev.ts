/**
 * `npm run dev`: a coordinator and three agents with private package roots, kept running until Ctrl-C and restarted
 * when a source file changes. State survives the restarts, so a change can be tried in the middle of a run.
 */
import { watch } from 'node:fs'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BUILD, INSTALLED, PUBLISHED } from './packages.ts'
import { CHECKOUT } from './process.ts'
import { heading, say } from './screen.ts'
import { createSite } from './site.ts'

const MACHINES = ['prod-dal10-dev1-worker-1', 'prod-dal10-dev1-worker-2', 'prod-dal10-dev2-worker-1'] as const
const SOURCES = ['coordinator', 'agent', 'protocol']
/** An editor writes a file in several steps; what comes within this time is one change. */
const QUIET_MS = 300

const dir = await mkdtemp(join(tmpdir(), 'smith-dev-'))
const site = await createSite({ dir })
const installed = await Promise.all(INSTALLED.map((spec) => site.build(spec)))
const published = await Promise.all(PUBLISHED.map((spec) => site.build(spec)))
for (const suite of ['prod', BUILD])
  await site.archive.publish({ suite, packages: published, build: BUILD, date: new Date() })
await site.startCoordinator()
for (const name of MACHINES) await site.addMachine(name, installed)

heading('A coordinator and three machines; they restart when a source file changes. Ctrl-C ends.')
say(`  alias smith='npm run -s smith -- --socket ${site.socket}'`)
say('  smith machines')
say('  smith patch --yes prod machines: prod-dal10-dev*-worker-* outage:0')
say(
  `The dashboard: https://127.0.0.1:${site.port()}/ with the token of: smith user add me --role admin approver requester`,
)
say(`Everything lies in ${dir}`)

let timer: NodeJS.Timeout | null = null
let restarting = Promise.resolve()
let isEnding = false

async function restart(file: string): Promise<void> {
  if (isEnding) return
  say(`${file} changed: restarting`)
  for (const name of MACHINES) await site.machine(name).agent?.stop()
  await site.coordinator?.stop()
  await site.startCoordinator()
  await Promise.all(MACHINES.map((name) => site.machine(name).startAgent()))
  say('running again')
}

for (const folder of SOURCES) {
  watch(join(CHECKOUT, folder), { recursive: true }, (_event, file) => {
    if (file === null || !/\.(tsx?|css)$/.test(file)) return
    if (timer !== null) clearTimeout(timer)
    timer = setTimeout(() => {
      restarting = restarting
        .then(() => restart(join(folder, file)))
        .catch((error: unknown) => say(`it did not start: ${error instanceof Error ? error.message : String(error)}`))
    }, QUIET_MS)
  })
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    if (isEnding) return
    isEnding = true
    void restarting
      .then(() => site.stop())
      .finally(() => {
        say(`\nAll stopped. What is left is ${dir}; remove it when you like.`)
        process.exit(0)
      })
  })
}
