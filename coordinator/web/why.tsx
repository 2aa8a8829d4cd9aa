/** Why a machine failed or is unknown: cause, message, the decisive lines of its output, what to do, and its log. */
import type { MachineStatus } from '../../protocol/status.ts'
import { Foreign, MachineLink } from './parts.tsx'

export function Why({ machine }: { readonly machine: MachineStatus }) {
  const { name, order, cause, message, evidence, advice } = machine
  if (cause === null && evidence.length === 0 && message === null) return null
  return (
    <div class="why">
      {cause !== null && (
        <p>
          <span class="label">Cause:</span> <strong>{cause}</strong> {message !== null && <Foreign text={message} />}
        </p>
      )}
      {evidence.length > 0 && (
        <pre class="evidence">
          <Foreign text={evidence.join('\n')} />
        </pre>
      )}
      {advice.length > 0 && (
        <ul>
          {advice.map((text) => (
            <li key={text}>
              <Foreign text={text} />
            </li>
          ))}
        </ul>
      )}
      <p>
        <span class="label">Log:</span> <MachineLink name={name} order={order} />
      </p>
    </div>
  )
}
