/**
 * A stand-in of NetBox and of a server of plain lists, over real HTTP. It pages, filters and refuses as NetBox does:
 * a filter that it does not know is ignored and everything comes back, its links bear another host's name, and who
 * may not read gets 403. A test sets `answer` to punish.
 */
import { type IncomingMessage, type ServerResponse, createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'

export const TOKEN = 'nbt_abc.0123456789'
const PATHS = { '/api/dcim/devices/': 'devices', '/api/virtualization/virtual-machines/': 'machines' } as const
const FILTERS = ['site', 'role', 'tenant', 'platform', 'status', 'tag']

export type Row = Record<string, unknown> & { readonly id: number }
/** A record as NetBox has it; the fields that smith does not read are left out. */
export function record(id: number, name: string | null, fields: Record<string, unknown> = {}): Row {
  return {
    id,
    name,
    display: name ?? `(${id})`,
    status: { value: 'active', label: 'Active' },
    site: { id: 7, name: 'London', slug: 'ldn1' },
    tags: [{ id: 1, name: 'prod', slug: 'prod' }],
    primary_ip: { id: 9, address: `10.0.1.${id % 250}/24` },
    primary_ip4: { id: 9, address: `10.0.1.${id % 250}/24` },
    primary_ip6: null,
    ...fields,
  }
}

export type StandIn = {
  readonly url: string
  devices: Row[]
  machines: Row[]
  /** The filters that it ignores, as NetBox does one that is misspelt. */
  ignores: string[]
  /** Answers in its place; false lets it answer itself. */
  answer: (request: IncomingMessage, response: ServerResponse, url: URL) => boolean
  readonly asked: string[]
  readonly keys: (string | undefined)[]
}

export async function startStandIn(t: Test): Promise<StandIn> {
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? '/', 'http://netbox.inner')
    standIn.asked.push(request.url ?? '')
    standIn.keys.push(request.headers.authorization)
    if (!standIn.answer(request, response, url)) serve(standIn, request, response, url)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const standIn: StandIn = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    devices: [],
    machines: [],
    ignores: [],
    answer: () => false,
    asked: [],
    keys: [],
  }
  return standIn
}

export function json(response: ServerResponse, value: unknown, status = 200): true {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value))
  return true
}

function serve(standIn: StandIn, request: IncomingMessage, response: ServerResponse, url: URL): void {
  const kind = PATHS[url.pathname as keyof typeof PATHS]
  if (kind === undefined) return void json(response, { detail: 'Not found.' }, 404)
  if (request.headers.authorization !== `Bearer ${TOKEN}`)
    return void json(response, { detail: 'Invalid v2 token' }, 403)
  const query = url.searchParams
  if (query.getAll('site').includes('xyz'))
    return void json(response, { site: ['Select a valid choice. xyz is not one of the available choices.'] }, 400)
  const rows = standIn[kind].filter((row) =>
    FILTERS.every((name) => standIn.ignores.includes(name) || !query.has(name) || fits(row, name, query.getAll(name))),
  )
  const limit = Number(query.get('limit') ?? 50)
  const offset = Number(query.get('offset') ?? 0)
  const next = `http://netbox.inner${url.pathname}?limit=${limit}&offset=${offset + limit}`
  json(response, {
    count: rows.length,
    next: offset + limit < rows.length ? next : null,
    previous: null,
    results: rows.slice(offset, offset + limit),
  })
}

function fits(row: Row, name: string, asked: readonly string[]): boolean {
  if (name === 'tag') return asked.every((slug) => (row['tags'] as { slug: string }[]).some((tag) => tag.slug === slug))
  const field = row[name] as { slug?: string; value?: string } | null
  return asked.includes(field?.slug ?? field?.value ?? '')
}
