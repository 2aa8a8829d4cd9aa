/** The composition with `[lookup]`: a coordinator as it is started, asked on its admin socket. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { openCoordinator } from '../../coordinator/app.ts'
import { parseConfig } from '../../coordinator/config.ts'
import type { Clock } from '../../coordinator/ports.ts'
import { random, realClock } from '../api/world.ts'
import { call } from '../site/harness.ts'
import { folder } from './world.ts'

/** A coordinator that takes its machines from a file, `web-1` being what it may ask for. */
async function started(t: Test, clock: Clock) {
  const dir = folder(t)
  const list = join(dir, 'list.json')
  const socket = join(dir, 'admin.sock')
  const text = `instance = "test"\nlisten = "127.0.0.1:0"\nstate_dir = "${join(dir, 'state')}"\nadmin_socket = "${socket}"\n[lookup]\nsource = "file"\nfile = "${list}"\n`
  const answer = parseConfig(text, 'c.toml')
  if (!answer.ok) throw new Error(JSON.stringify(answer.refusals))
  const quiet = () => {}
  const log = { debug: quiet, info: quiet, warn: quiet, error: quiet }
  const ports = { config: answer.config, clock, random, log, version: '0', names: [], onFatal: quiet }
  const { coordinator } = await openCoordinator(ports)
  await coordinator.start()
  t.teardown(() => coordinator.stop())
  const ana = await call<{ token: string }>({ socket }, 'POST', '/users', { name: 'ana', roles: ['requester'] })
  return { list, socket, coordinator, token: ana.body.token }
}

t.test('[LKP-8] a coordinator started with [lookup] asks its source before each request', async (t) => {
  const { list, socket, token } = await started(t, realClock)
  writeFileSync(list, '["web-1"]')
  const body = { text: 'prod machines: web-1 outage:0', preview: true }
  const ask = () => call<{ refusals: unknown }>({ socket }, 'POST', '/requests', body, token)
  t.match((await ask()).body.refusals, [{ kind: 'machine-offline', message: /web-1 is known to .*list.json/ }])
  writeFileSync(list, '["web-')
  t.match((await ask()).body.refusals, [{ kind: 'unavailable', message: /holds no whole JSON/ }])
  writeFileSync(list, '["web-1"]')
  t.match((await call({ socket }, 'GET', '/missing-machines')).body, { source: list, notEnrolled: [{ name: 'web-1' }] })
  const doctor = await call<{ findings: { subject: string }[] }>({ socket }, 'GET', '/doctor')
  t.ok(doctor.body.findings.some(({ subject }) => subject === 'lookup'))
})

t.test('[LKP-20] a coordinator started with [lookup] asks its source when a schedule is due', async (t) => {
  const time = { at: realClock.wallNow(), timers: new Set<{ readonly at: number; readonly run: () => void }>() }
  const clock: Clock = {
    wallNow: () => time.at,
    monotonicNow: () => time.at,
    after: (ms, run) => {
      const timer = { at: time.at + ms, run }
      time.timers.add(timer)
      return () => void time.timers.delete(timer)
    },
  }
  const { list, socket, coordinator, token } = await started(t, clock)
  const fired = new Promise<unknown>((resolve) => {
    coordinator.driver.onRow(({ facts }) => {
      const fact = facts.find((one) => one.fact === 'scheduleRefused' || one.fact === 'scheduleMissed')
      if (fact !== undefined) resolve(fact)
    })
  })
  writeFileSync(list, '["web-1"]')
  const body = { name: 'often', cron: '* * * * *', text: 'prod machines: web-* outage:0' }
  await call({ socket }, 'POST', '/schedules', body, token)
  time.at += 60_000
  for (const timer of time.timers) if (timer.at <= time.at && time.timers.delete(timer)) timer.run()
  t.match(await fired, { fact: 'scheduleRefused', reason: /web-1 is known to .*list.json and has no agent here/ })
})
