/** The composition with `[lookup]`: a coordinator as it is started, asked on its admin socket. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { openCoordinator } from '../../coordinator/app.ts'
import { parseConfig } from '../../coordinator/config.ts'
import { random, realClock } from '../api/world.ts'
import { call } from '../site/harness.ts'
import { folder } from './world.ts'

t.test('[LKP-8] a coordinator started with [lookup] asks its source before each request', async (t) => {
  const dir = folder(t)
  const list = join(dir, 'list.json')
  const socket = join(dir, 'admin.sock')
  const text = `instance = "test"\nlisten = "127.0.0.1:0"\nstate_dir = "${join(dir, 'state')}"\nadmin_socket = "${socket}"\n[lookup]\nsource = "file"\nfile = "${list}"\n`
  const answer = parseConfig(text, 'c.toml')
  if (!answer.ok) throw new Error(JSON.stringify(answer.refusals))
  const quiet = () => {}
  const log = { debug: quiet, info: quiet, warn: quiet, error: quiet }
  const ports = { config: answer.config, clock: realClock, random, log, version: '0', names: [], onFatal: quiet }
  const { coordinator } = await openCoordinator(ports)
  await coordinator.start()
  t.teardown(() => coordinator.stop())
  writeFileSync(list, '["web-1"]')
  const body = { text: 'prod machines: web-1 outage:0', preview: true }
  const ana = await call<{ token: string }>({ socket }, 'POST', '/users', { name: 'ana', roles: ['requester'] })
  const ask = () => call<{ refusals: unknown }>({ socket }, 'POST', '/requests', body, ana.body.token)
  t.match((await ask()).body.refusals, [{ kind: 'machine-offline', message: /web-1 is known to .*list.json/ }])
  writeFileSync(list, '["web-')
  t.match((await ask()).body.refusals, [{ kind: 'unavailable', message: /holds no whole JSON/ }])
  writeFileSync(list, '["web-1"]')
  t.match((await call({ socket }, 'GET', '/missing-machines')).body, { source: list, notEnrolled: [{ name: 'web-1' }] })
  const doctor = await call<{ findings: { subject: string }[] }>({ socket }, 'GET', '/doctor')
  t.ok(doctor.body.findings.some(({ subject }) => subject === 'lookup'))
})
