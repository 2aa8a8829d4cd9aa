/**
 * What the routes do that look after people, machines and the database. Called by handlers.ts. A secret is made here,
 * shown in the one answer, and kept nowhere: what is stored is its SHA-256.
 */
import type { Refusal } from '../../protocol/errors.ts'
import type { Event } from '../domain/events.ts'
import { compareNaturally } from '../../protocol/natural-order.ts'
import { machineNamed } from '../domain/selection.ts'
import { refuse } from './bodies.ts'
import type { Hand, Handlers } from './calls.ts'
import { ownFindings } from './examine.ts'
import type { ApiPorts } from './ports.ts'

const ENROL_TTL_SECONDS = 3600
const DAY_MS = 86_400_000

type Enrolling = 'enrolNew' | 'enrolList' | 'enrolRevoke' | 'enrol'
type People = 'userAdd' | 'userList' | 'userRevoke' | 'backup' | 'doctor'

export function keeping(ports: ApiPorts, hand: Hand): Pick<Handlers, Enrolling | People> {
  return { ...enrolling(ports, hand), ...people(ports, hand) }
}

function secret({ random }: ApiPorts): string {
  return Buffer.from(random.bytes(32)).toString('base64url')
}

function enrolling(ports: ApiPorts, { submit, command }: Hand): Pick<Handlers, Enrolling> {
  const { driver, tools } = ports
  return {
    enrolNew: async (call) => {
      const { names, replace = false, ttlSeconds = ENROL_TTL_SECONDS } = call.body
      const refusals = refuseNames(ports, names, replace)
      if (refusals.length > 0) return { ok: false, refusals }
      const tokens: { id: string; name: string; token: string; expiresAt: number }[] = []
      for (const name of names) {
        const token = `smith1.${secret(ports)}.${ports.pin}.${name}`
        const event: Event = {
          type: 'command',
          command: { type: 'enrolNew', name, tokenHash: tools.sha256(token), ttlMs: ttlSeconds * 1000, replace },
        }
        const { reply } = await submit(call, event)
        if (!reply.ok) {
          // Nobody will ever see the tokens that were made before the one that was refused.
          for (const made of tokens) await command(call, { type: 'enrolRevoke', name: made.name })
          return reply
        }
        tokens.push({ id: reply.value?.id ?? '', name, token, expiresAt: reply.value?.expiresAt ?? 0 })
      }
      return { ok: true, value: { tokens } }
    },
    enrolList: () => ({
      ok: true,
      value: {
        enrolments: [...driver.view.all('enrolments')]
          .map(({ tokenHash: _hash, ...shown }) => shown)
          .toSorted((left, right) => compareNaturally(left.name, right.name) || left.expiresAt - right.expiresAt),
      },
    }),
    enrolRevoke: (call) => command(call, { type: 'enrolRevoke', name: call.body.name }),
    enrol: async (call) => {
      const { token, publicKey, facts } = call.body
      if (!isEd25519(publicKey))
        return refuse(
          'bad-value',
          'publicKey is no Ed25519 key (SPKI, DER, base64)',
          'enrol with smith-agent enrol',
          'publicKey',
        )
      const { reply } = await submit(
        { actor: { kind: 'smith' } },
        { type: 'enrol', tokenHash: tools.sha256(token), publicKey, facts, address: call.address },
      )
      if (!reply.ok) return reply
      return {
        ok: true,
        value: {
          machine: reply.value?.machine ?? '',
          name: reply.value?.name ?? '',
          instance: ports.instance,
          orderKey: ports.orderKeyPublicBase64,
        },
      }
    },
  }
}

function people(ports: ApiPorts, { command, submit }: Hand): Pick<Handlers, People> {
  const { driver, tools } = ports
  return {
    userAdd: async (call) => {
      const { name, roles, ttlDays } = call.body
      const token = `smithp_${secret(ports)}`
      const ttlMs = ttlDays === undefined ? null : ttlDays * DAY_MS
      const done = await command(call, { type: 'userAdd', name, roles, tokenHash: tools.sha256(token), ttlMs })
      return done.ok ? { ok: true, value: { name, roles: [...roles], token } } : done
    },
    userList: () => ({
      ok: true,
      value: {
        users: [...driver.view.all('users')]
          .map(({ tokenHash: _hash, ...shown }) => ({ ...shown, roles: [...shown.roles] }))
          .toSorted((left, right) => compareNaturally(left.name, right.name)),
      },
    }),
    userRevoke: (call) => command(call, { type: 'userRevoke', name: call.body.name }),
    backup: async (call) => {
      if (ports.backup === undefined)
        return refuse('unavailable', 'this coordinator makes no backups', 'start it with a state folder')
      const made = await ports.backup(call.body.path, call.body.passphrase)
      if (made.ok) await submit(call, { type: 'backupMade', path: call.body.path })
      return made
    },
    doctor: async () => {
      const isLocal = ports.views.isRemote !== true
      const findings = [...ownFindings(driver.view, driver.now(), isLocal), ...((await ports.examine?.()) ?? [])]
      return { ok: true, value: { findings } }
    },
  }
}

/** Every name that can't get a token, before the first one is made: a list is taken whole or not at all. */
function refuseNames(ports: ApiPorts, names: readonly string[], replace: boolean): Refusal[] {
  const seen = new Set<string>()
  return names.flatMap((name): Refusal[] => {
    if (seen.has(name))
      return [
        { kind: 'duplicate-key', message: `${name} stands twice`, subject: name, remedy: 'name each machine once' },
      ]
    seen.add(name)
    if (replace || machineNamed(ports.driver.view, name) === undefined) return []
    return [
      {
        kind: 'exists',
        message: `${name} is enrolled already`,
        subject: name,
        remedy: `if it was reinstalled: smith enrol new --name ${name} --replace`,
      },
    ]
  })
}

/** The DER of an Ed25519 public key: this head (RFC 8410 section 4) and the 32 bytes of the key. */
const ED25519_HEAD = '302a300506032b6570032100'

function isEd25519(base64: string): boolean {
  const bytes = Buffer.from(base64, 'base64')
  return bytes.length === 44 && bytes.toString('hex').startsWith(ED25519_HEAD)
}
