/** A secret that the records of a run hold in pieces, in JSON or in base64 is in no file of its health report. */
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { openRecords, PARTIAL_LINE_MS } from '../../../agent/runner/records.ts'
import { createRealPorts } from '../../../agent/runner/real-ports.ts'
import { makeReport } from '../../../agent/runner/report/make.ts'
import { readAgentConfig } from '../../../agent/config.ts'
import { createRealDisk } from '../../../agent/disk/disk.ts'
import { makeStateFolders } from '../../../agent/disk/grant-key.ts'
import { layoutOf, orderLayoutOf } from '../../../agent/disk/layout.ts'

const ORDER = 'ab'.repeat(16)
const BODY = 'MC4CAQAwBQYDK2VwBCIEIPlantedPlantedPlantedPlantedPlanted0000aaaa'
const PLANTED = /hunter2|Planted|aHVudGVyM/

/** A state folder with one run in it, whose records the real cutter makes of what the test prints. */
function machine(t: Test) {
  const dir = mkdtempSync(join(tmpdir(), 'smith-report-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const file = join(dir, 'agent.toml')
  for (const name of ['root', 'repos', 'checks']) mkdirSync(join(dir, name))
  const lines = [
    `coordinator = "https://127.0.0.1:1"\nstate_dir = "${join(dir, 'state')}"\nlog_file = "${join(dir, 'agent.log')}"`,
    `repos_dir = "${join(dir, 'repos')}"\nchecks_dir = "${join(dir, 'checks')}"\n[apt]\nroot = "${join(dir, 'root')}"`,
  ]
  writeFileSync(file, `${lines.join('\n')}\n`)
  const config = readAgentConfig(file)
  const disk = createRealDisk()
  const layout = layoutOf(config.stateDir)
  makeStateFolders(disk, layout)
  const files = orderLayoutOf(layout, ORDER)
  mkdirSync(files.folder)
  writeFileSync(files.fate, JSON.stringify({ fate: 'claim', fence: 1, at: 1 }))
  const clock = { now: 1_000_000 }
  const tell = (step: string, text: string) =>
    appendFileSync(config.logFile, `${new Date(clock.now).toISOString()} ${ORDER} ${step} ${text}\n`)
  const records = openRecords({ disk, now: () => clock.now, tell }, files, 1_000_000)
  const print = (bytes: string | Uint8Array) => {
    appendFileSync(files.output, bytes)
    records.drain(false)
  }
  const pause = () => {
    clock.now += PARTIAL_LINE_MS
    records.drain(false)
  }
  const report = async () => makeReport(await createRealPorts(), config)
  return { records, print, pause, report, files, config }
}

t.test('[RPT-20] a secret that the records of a run cut or encode is in no file of the report', async (t) => {
  const { records, print, pause, report, files, config } = machine(t)
  records.begin('install')
  print('password="hunter2"\n{"password": "hunter2"}\n')
  print(Buffer.concat([Buffer.from('password=hunter2 '), Buffer.from([0xff, 0x0a])]))
  print(`${'x'.repeat(8180)} password=hunter2\n`)
  print('password=')
  pause()
  print('hunter2\n')
  print(`-----BEGIN PRIVATE KEY-----\n${BODY}\n${BODY}\n-----END PRIVATE KEY-----\n`)
  records.note('a note of the run')
  const log = readFileSync(config.logFile, 'utf8')
  t.match(log, /install password= \[smith: the line goes on\]\n.* install hunter2\n/)
  t.match(readFileSync(files.records, 'utf8'), /"base64":/)
  const { files: made } = await report()
  const text = (name: string) => made.find((one) => one.name === name)?.text ?? ''
  t.match(text('run.txt'), /==> its steps\n1 1970-\S+ -- install\n\d+ 1970-\S+ install: a note of the run\n/)
  t.match(text('run-output.log'), /password=\*\*\*\n/)
  t.match(text('smith-agent.log'), /install password=\*\*\*\n/)
  for (const { name, text: shown } of made) t.notMatch(shown, PLANTED, name)
})

t.test('[RPT-20] what a run at work said last is a whole line, without its secret', async (t) => {
  const { records, print, pause, report, files } = machine(t)
  records.begin('install')
  print('the password=')
  pause()
  print('hunter2')
  pause()
  t.match(readFileSync(files.records, 'utf8'), /"text":"hunter2"/)
  const { run } = await report()
  t.equal(run?.message, 'at work, at install; last said: the password=***')
})

t.test('[RPT-20] the evidence of a run is looked through as a whole, and its result is shown as text', async (t) => {
  const { records, report } = machine(t)
  records.begin('install')
  records.end({
    ...{ outcome: 'failed', cause: 'check', step: 'install', message: 'it said password="hunter2"' },
    ...{ evidence: ['here', '-----BEGIN PRIVATE KEY-----', BODY, '-----END PRIVATE KEY-----', 'there'] },
    ...{ advice: ['Mend it.'], latched: true, rebootPending: false, installed: ['lamp:all=1.0'] },
  })
  const { run, files, redacted } = await report()
  t.same(
    run?.evidence.filter((line) => line !== '***'),
    ['here', 'there'],
  )
  t.equal(run?.message, 'it said password=***')
  const shown = files.find((one) => one.name === 'run.txt')?.text ?? ''
  t.match(shown, /== failed \(check\) at install: it said password=\*\*\*\n {4}here\n/)
  t.match(shown, /next: Mend it\.\n.*latched: yes[^]*installed: lamp:all=1\.0\n/)
  t.notMatch(shown, PLANTED)
  t.match(redacted, { 'private-key': 2, named: 3 })
})
