/**
 * Makes a health report: looks, reads every source of the fixed list, takes the secrets out, cuts what is too long
 * and packs it. Bounded in bytes for each file and in all, and in time for each source and in all.
 */
import { gzipSync } from 'node:zlib'
import { visible } from '../../apt/diagnosis.ts'
import { type Finding, type MachineReport, REPORT_BYTES_MAX, REPORT_FILE_BYTES_MAX } from '../../../protocol/report.ts'
import { createCleaner } from '../../../protocol/cleaning.ts'
import { aptEnvironment } from '../../apt/command.ts'
import type { AgentConfig } from '../../config.ts'
import { join } from 'node:path'
import { type Layout, layoutOf } from '../../disk/layout.ts'
import type { Disk } from '../../disk/disk.ts'
import { type Collector, collectorsFor } from './collectors.ts'
import { findingsOf } from './findings.ts'
import { type LookPorts, look } from './looks.ts'
import { type NewestRun, newestRun } from './newest-run.ts'
import { endOf, leftOut, readSource, type SourcePorts } from './sources.ts'

export const REPORT_MS_MAX = 90_000
/** So many files are put together at a time. */
const SIDE_BY_SIDE = 4
/** A longer line is cut, after the secrets were taken out of it. */
const LINE_CHARACTERS_MAX = 8192

export async function makeReport(
  ports: LookPorts,
  config: AgentConfig,
  timeMs: number = REPORT_MS_MAX,
): Promise<MachineReport> {
  const began = ports.now()
  const layout = layoutOf(config.stateDir)
  const target = { root: config.aptRoot }
  const environment = { ...aptEnvironment(target, null, null) }
  delete environment['NEEDRESTART_SUSPEND']
  const sources: SourcePorts = { disk: ports.disk, environment, leftMs: () => timeMs - (ports.now() - began) }
  const { newest, problem } = readNewest(ports.disk, layout)
  const looks = await look({ ports, sources, config, layout, target, newest })
  const collectors = collectorsFor({ config, layout, target, disk: ports.disk, newest, looks })
  const clean = createCleaner(ownKey(ports.disk, layout))
  const raw = await inPool(collectors, (collector) => textOf(sources, collector))
  let left = REPORT_BYTES_MAX
  const files = collectors.map(({ name, what }, index) => {
    const text = cutBytes(cutLines(clean.text(raw[index] ?? '')), Math.min(left, REPORT_FILE_BYTES_MAX))
    left -= Buffer.byteLength(text)
    return { name, what, text }
  })
  const run = newest?.run ?? null
  const given = { looks, run, freeBytesMin: config.limits.freeBytesMin }
  const findings = [...(problem === null ? [] : [damaged(problem)]), ...findingsOf(given)].slice(0, 60)
  return {
    at: ports.now(),
    tookMs: Math.max(0, ports.now() - began),
    run: run === null ? null : clean.run(run),
    findings: findings.map(({ text, evidence, next }) => ({
      text: clean.line(text),
      evidence: evidence === null ? null : clean.line(evidence),
      next: next === null ? null : clean.line(next),
    })),
    files,
    redacted: clean.hits,
  }
}

/** What a machine tells that could make no report. */
export function emptyReport(at: number, problem: string): MachineReport {
  const clean = createCleaner()
  const text = clean.line(`the root half could make no report: ${problem}`)
  const next = 'journalctl -u smith-report -n 50'
  return { at, tookMs: 0, run: null, findings: [{ text, evidence: null, next }], files: [], redacted: clean.hits }
}

export function packReport(report: MachineReport): Buffer {
  return gzipSync(JSON.stringify(report))
}

async function textOf(ports: SourcePorts, { sources }: Collector): Promise<string> {
  if (sources.length === 0) return leftOut('there is nothing of that kind on this machine')
  const each = Math.floor(REPORT_FILE_BYTES_MAX / sources.length)
  const texts: string[] = []
  for (const source of sources) texts.push(await readSource(ports, source, each))
  return texts.join('\n')
}

async function inPool<In, Out>(items: readonly In[], work: (item: In) => Promise<Out>): Promise<Out[]> {
  const results: Out[] = []
  const waiting = [...items.entries()]
  const worker = async () => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) results[next[0]] = await work(next[1])
  }
  await Promise.all(Array.from({ length: SIDE_BY_SIDE }, worker))
  return results
}

/** A report of a machine whose state is damaged is wanted more than any other. */
function readNewest(
  disk: Disk,
  layout: Layout,
): { readonly newest: NewestRun | null; readonly problem: string | null } {
  try {
    return { newest: newestRun(disk, layout), problem: null }
  } catch (error) {
    return { newest: null, problem: error instanceof Error ? error.message : String(error) }
  }
}

function damaged(problem: string): Finding {
  return {
    text: 'what smith keeps of its runs can not be read',
    evidence: visible(problem).slice(0, 2000),
    next: 'smith-agent status; ls -la /var/lib/smith/run/orders',
  }
}

/** The key by which this machine proves itself, line by line of its base64: it is in no file of the list, to be sure. */
function ownKey(disk: Disk, layout: Layout): string[] {
  const path = join(layout.agent, 'key.pem')
  // The file is the agent's: whatever else stands there is none, and what it says is only believed where it looks like a key.
  if (disk.factsOf(path)?.kind !== 'file') return []
  return endOf(disk, path, 65_536)
    .split('\n')
    .filter((line) => /^[A-Za-z0-9+/]{40,}={0,2}$/.test(line))
    .slice(0, 100)
}

/** A line that is too long to be read is cut. */
function cutLines(text: string): string {
  return text
    .split('\n')
    .map((one) =>
      one.length <= LINE_CHARACTERS_MAX
        ? one
        : `${one.slice(0, LINE_CHARACTERS_MAX)} ${leftOut(`${one.length - LINE_CHARACTERS_MAX} characters are left out`)}`,
    )
    .join('\n')
}

/** What explains a failure stands at the end of a log, so the middle goes. */
function cutBytes(text: string, bytesMax: number): string {
  const bytes = Buffer.from(text)
  if (bytes.length <= bytesMax) return text
  const remark = (n: number) => `\n${leftOut(`${n} bytes are left out here`)}\n`
  const room = bytesMax - Buffer.byteLength(remark(bytes.length))
  if (room <= 0) return ''
  const head = wholeLines(bytes.subarray(0, Math.floor(room / 4)).toString('utf8'), 'head')
  const tail = wholeLines(bytes.subarray(bytes.length - Math.floor((room * 3) / 4)).toString('utf8'), 'tail')
  return `${head}${remark(bytes.length - Buffer.byteLength(head) - Buffer.byteLength(tail))}${tail}`
}

function wholeLines(text: string, which: 'head' | 'tail'): string {
  return which === 'head' ? text.slice(0, text.lastIndexOf('\n') + 1) : text.slice(text.indexOf('\n') + 1)
}
