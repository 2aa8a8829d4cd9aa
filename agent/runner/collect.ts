/**
 * The collector of health reports, root's, as a program of its own: beside a run that may be at work it waits for
 * nothing and takes no lock. Started by smith-report.path, or by the agent where there is no systemd, when something
 * lies in `asks/`; ends when that is empty.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { RefusedError } from '../../protocol/errors.ts'
import { distrusted, steeringPaths } from '../apt/trust.ts'
import type { MachineReport } from '../../protocol/report.ts'
import { AGENT_CONFIG_FILE, type AgentConfig, DEFAULT_STATE_DIR, readAgentConfig } from '../config.ts'
import { createRealDisk } from '../disk/disk.ts'
import { makeStateFolders } from '../disk/grant-key.ts'
import { layoutOf } from '../disk/layout.ts'
import { createRealPorts } from './real-ports.ts'
import type { LookPorts } from './report/looks.ts'
import { emptyReport, makeReport, packReport } from './report/make.ts'
import { keepReport, sweepTemporary, takeAsks } from './report/spool.ts'

/** So long after a report none is made, however often one is asked for. */
const PAUSE_MS = 3000
const FAILED_PAUSE_MS = 10_000

/** Then it ends, and is started again as long as somebody asks: the unit's own bound must never be met. */
const ROUNDS_MS_MAX = 240_000

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { config: { type: 'string', default: AGENT_CONFIG_FILE } } })
  const ports = await createRealPorts()
  const { stateDir, config, error } = configOf(values.config)
  const layout = layoutOf(stateDir)
  process.umask(0o027)
  makeStateFolders(ports.disk, layout)
  sweepTemporary(ports.disk, layout)
  const began = ports.now()
  for (let asks = takeAsks(ports.disk, layout); asks.length > 0; asks = takeAsks(ports.disk, layout)) {
    // Whoever asks is told why there is nothing: the machine that can't make one is the machine it is wanted of.
    const report = config === null ? failedReport(ports, error) : await made(ports, config)
    keepReport(ports.disk, layout, asks, packReport(report))
    if (Math.abs(ports.now() - began) > ROUNDS_MS_MAX) return
    await delay(PAUSE_MS)
  }
}

type Configured = { readonly stateDir: string; readonly config: AgentConfig | null; readonly error: unknown }

/** The configuration, or why it may not be used; what can't be read at all is asked for where it is by default. */
function configOf(file: string): Configured {
  try {
    const config = readAgentConfig(file)
    const { stateDir } = config
    const refusal = process.geteuid?.() === 0 ? distrusted(steeringPaths(createRealDisk(), config)) : null
    return refusal === null
      ? { stateDir, config, error: null }
      : { stateDir, config: null, error: new RefusedError([refusal]) }
  } catch (error) {
    return { stateDir: DEFAULT_STATE_DIR, config: null, error }
  }
}

async function made(ports: LookPorts, config: AgentConfig): Promise<MachineReport> {
  try {
    return await makeReport(ports, config)
  } catch (error) {
    return failedReport(ports, error)
  }
}

/** Where in the program it failed stands in the journal; who reads the report wants to know what failed. */
function failedReport(ports: LookPorts, error: unknown): MachineReport {
  tell(error)
  return emptyReport(ports.now(), problemOf(error))
}

function tell(error: unknown): void {
  const isDefect = error instanceof Error && !(error instanceof RefusedError)
  process.stderr.write(`smith: no health report: ${isDefect ? (error.stack ?? error.message) : problemOf(error)}\n`)
}

function problemOf(error: unknown): string {
  if (error instanceof RefusedError)
    return error.refusals.map((refusal) => `${refusal.message}; ${refusal.remedy}`).join('; ')
  return error instanceof Error ? error.message : String(error)
}

main().then(
  () => process.exit(0),
  (error: unknown) => {
    tell(error)
    // What asks for it may still lie there, and the path unit starts this again at once.
    setTimeout(() => process.exit(1), FAILED_PAUSE_MS)
  },
)
