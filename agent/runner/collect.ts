/**
 * The collector of health reports, root's, as a program of its own: beside a run that may be at work it waits for
 * nothing and takes no lock. Started by smith-report.path, or by the agent where there is no systemd, when something
 * lies in `asks/`; ends when that is empty.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { RefusedError } from '../../protocol/errors.ts'
import { distrusted, steeringPaths } from '../apt/trust.ts'
import { AGENT_CONFIG_FILE, readAgentConfig } from '../config.ts'
import { createRealDisk } from '../disk/disk.ts'
import { makeStateFolders } from '../disk/grant-key.ts'
import { layoutOf } from '../disk/layout.ts'
import { createRealPorts } from './real-ports.ts'
import { makeReport, packReport } from './report/make.ts'
import { keepReport, sweepTemporary, takeAsks } from './report/spool.ts'

/** So long after a report none is made, however often one is asked for. */
const PAUSE_MS = 3000
const FAILED_PAUSE_MS = 10_000

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { config: { type: 'string', default: AGENT_CONFIG_FILE } } })
  const config = readAgentConfig(values.config)
  const refusal = process.geteuid?.() === 0 ? distrusted(steeringPaths(createRealDisk(), config)) : null
  process.umask(0o027)
  const layout = layoutOf(config.stateDir)
  const ports = await createRealPorts()
  makeStateFolders(ports.disk, layout)
  sweepTemporary(ports.disk, layout)
  for (let asks = takeAsks(ports.disk, layout); asks.length > 0; asks = takeAsks(ports.disk, layout)) {
    // After the entries are gone, so that it is not started again without an end.
    if (refusal !== null) throw new RefusedError([refusal])
    keepReport(ports.disk, layout, asks, packReport(await makeReport(ports, config)))
    await delay(PAUSE_MS)
  }
}

main().then(
  () => process.exit(0),
  (error: unknown) => {
    const texts =
      error instanceof RefusedError
        ? error.refusals.map((refusal) => `${refusal.message}\n${refusal.remedy}`)
        : [error instanceof Error ? (error.stack ?? error.message) : String(error)]
    for (const text of texts) process.stderr.write(`smith: no health report: ${text}\n`)
    // What asks for it may still lie there, and the path unit starts this again at once.
    setTimeout(() => process.exit(1), FAILED_PAUSE_MS)
  },
)
