/** A source behind the site's own authority: trusted by `ca_file`, and by nothing else. */
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { loadOrCreateKeys } from '../../coordinator/keys.ts'
import { random, realClock } from '../api/world.ts'
import { folder, listed } from './world.ts'

t.test('[LKP-16] a source with a certificate of the site is read with ca_file, and refused without', async (t) => {
  const dir = folder(t)
  const keys = await loadOrCreateKeys({
    dir: join(dir, 'keys'),
    instance: 'x',
    names: ['localhost'],
    clock: realClock,
    random,
  })
  const server = createServer(keys.tls, (_request, response) =>
    response.writeHead(200, { 'content-type': 'application/json' }).end('["h1"]'),
  )
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const lines = `source = "http"\nurl = "https://localhost:${(server.address() as AddressInfo).port}/"\n`
  t.match(await listed(lines), /can't be read: .*certificate/)
  const ca = join(dir, 'ca.pem')
  t.match(await listed(`${lines}ca_file = "${ca}"`), /ENOENT.*see lookup.ca_file/)
  writeFileSync(ca, keys.tls.cert)
  t.same(await listed(`${lines}ca_file = "${ca}"`), ['h1 []'])
})
