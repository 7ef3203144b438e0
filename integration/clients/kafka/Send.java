import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Sends messages to a topic with Kafka's own client: `Send BROKER TOPIC COMPRESSION`, and on standard input a line
 * `PARTITION BASE64` for each. Ends when the broker has them all.
 */
class Send {
    public static void main(String[] arguments) throws Exception {
        var settings = new Properties();
        settings.put("bootstrap.servers", arguments[0]);
        settings.put("compression.type", arguments[2]);
        // Several messages in one batch.
        settings.put("linger.ms", "200");
        settings.put("key.serializer", ByteArraySerializer.class.getName());
        settings.put("value.serializer", ByteArraySerializer.class.getName());
        try (var lines = new BufferedReader(new InputStreamReader(System.in));
                var producer = new KafkaProducer<byte[], byte[]>(settings)) {
            var sending = new ArrayList<Future<?>>();
            for (String line; (line = lines.readLine()) != null; ) {
                var parts = line.split(" ");
                var message = Base64.getDecoder().decode(parts[1]);
                sending.add(producer.send(new ProducerRecord<>(arguments[1], Integer.valueOf(parts[0]), null, message)));
            }
            for (var message : sending) {
                message.get();
            }
        }
    }
}
