/** The runner's view of the world for real: disk, time, processes, the kernel's word, and the way to the coordinator. */
import { execFile } from 'node:child_process'
import { readdirSync } from 'node:fs'
import * as v from 'valibot'
import { ageOf, commandOf, lockHolder, statFields, textOf } from '../apt/kernel.ts'
import { createRealMachine } from '../apt/planning.ts'
import { createRealProcesses } from '../apt/processes.ts'
import { createRealDisk } from '../disk/disk.ts'
import type { Connected, ProcessFacts, RunnerPorts } from './ports.ts'

export async function createRealPorts(): Promise<RunnerPorts> {
  return {
    disk: createRealDisk(),
    now: () => Date.now(),
    after: (ms, then) => {
      const timer = setTimeout(then, ms)
      return () => clearTimeout(timer)
    },
    processes: await createRealProcesses(),
    machine: createRealMachine(),
    lockHolder,
    processesOf,
    connect,
  }
}

/**
 * The runner itself neither listens nor calls out, so a child that becomes nobody makes the connection and closes it.
 * Nothing is sent in it, so whose certificate it is does not matter: only the way there is tried. The program is
 * part of this one, because a run may replace or remove the files of smith's own package.
 */
const REACH = `
const [host, port, ms, plain] = process.argv.slice(1)
const { connect } = require(plain === 'plain' ? 'node:net' : 'node:tls')
if (process.getuid() === 0) { process.setgroups([]); process.setgid(65534); process.setuid(65534) }
const over = (how, problem) => { console.log(JSON.stringify({ how, problem })); process.exit(0) }
const name = require('node:net').isIP(host) === 0 ? { servername: host } : {}
setTimeout(() => over('unreachable', 'no answer in ' + Number(ms) / 1000 + ' s'), Number(ms))
connect({ host, port: Number(port), rejectUnauthorized: false, ...name })
  .once(plain === 'plain' ? 'connect' : 'secureConnect', () => over('connected', null))
  .once('error', (error) => over(error.code === 'ECONNREFUSED' ? 'refused' : 'unreachable', error.code ?? error.message))
`
const START_MS_MAX = 20_000
const connectedSchema = v.strictObject({
  how: v.picklist(['connected', 'refused', 'unreachable']),
  problem: v.nullable(v.pipe(v.string(), v.maxLength(500))),
})

export function connect(
  to: { readonly host: string; readonly port: number; readonly isPlain?: boolean },
  timeoutMs: number,
  then: (connected: Connected) => void,
): void {
  execFile(
    process.execPath,
    ['-e', REACH, to.host, String(to.port), String(timeoutMs), to.isPlain === true ? 'plain' : 'tls'],
    {
      cwd: '/',
      env: { PATH: '/usr/bin:/bin' },
      timeout: timeoutMs + START_MS_MAX,
      killSignal: 'SIGKILL',
      maxBuffer: 65_536,
    },
    (error, stdout) => {
      if (error !== null) return then({ how: 'unknown', problem: error.message.split('\n')[0] ?? '' })
      then(v.parse(connectedSchema, JSON.parse(stdout)))
    },
  )
}

/** By the mark that aptEnvironment sets and that children inherit. */
function processesOf(order: string): ProcessFacts[] {
  return readdirSync('/proc').flatMap((name) => {
    if (!/^[0-9]+$/.test(name)) return []
    const pid = Number(name)
    const environment = textOf(`/proc/${pid}/environ`) ?? ''
    if (!environment.split('\0').includes(`SMITH_ORDER=${order}`)) return []
    return [{ pid, parent: Number(statFields(pid)[1] ?? '0'), command: commandOf(pid), forMs: ageOf(pid) }]
  })
}
